"""Scenes, their code and their scores: numpy and scipy only."""
