"""What a run costs: chips, FLOPs, compiled programs, throughput."""
