"""Early stopping, counted and in a run with two validation sets."""

import struct

import jax
import pytest

from igllm_jax import config as configs
from igllm_jax import make_data, train
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.training import metrics_log
from igllm_jax.training.patience import Patience
from igllm_jax.training.validation import HeldOutEvaluation
from igllm_jax.weights import checkpoint
from tests import runs


def test_only_what_is_below_the_best_counts():
    patience = Patience(2)
    for value, is_over in ((float("nan"), False), (3.0, False), (2.0, False), (2.0, False), (float("nan"), True)):
        patience.see(value)
        assert patience.is_over == is_over
    again = Patience(3)
    again.restore(patience.meta())
    assert (again.best, again.num_worse, again.is_over) == (2.0, 2, False)
    assert not Patience(0, 1.0, 100).is_over
    other, same = (Patience(3, metric=metric) for metric in ("val_OOD/l2", "val/loss"))
    for one in (other, same):
        one.restore(Patience(3, 0.1, 2, "val/loss").meta())
    assert (other.best, other.num_worse, same.best, same.num_worse) == (None, 0, 0.1, 2)


ADDED = {"val_ID": [0.0, -0.1, -0.2, -0.3], "val_OOD": [0.0, -0.5, 0.2, 0.1]}  # to the loss measured after each step


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """A run that sees its OOD loss fall to step 2, and its ID loss to the end; returns its folder and its arguments."""
    on, measure = MeshOptions.on, HeldOutEvaluation.losses
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, jax.devices()[:1]))  # compiles sooner
    order = [ADDED[name][step] for step in (0, 1, 2, 3, 2, 3) for name in ADDED]  # steps 3 and 4 twice
    added = iter(order)

    def losses(self, *arguments):
        return {name: value + next(added) if name == "loss" else value
                for name, value in measure(self, *arguments).items()}  # fmt: skip

    monkeypatch.setattr(HeldOutEvaluation, "losses", losses)
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "24", "--num_val", "8"])
    sets = tuple((name, *[f"{tmp_path}/2d.npz:{split}"] * 2)
                 for name, split in (("val_ID", "checkerboard_sparse"), ("val_OOD", "random")))  # fmt: skip
    changes = {"data__val_sets": sets, "eval__best_metric": "val_OOD/loss", "eval__patience": 2, "eval__loss_every": 1}
    # at a rate of 0 only what is added changes
    changes |= {f"optim__{key}": 0.0 for key in ("lr", "projector_lr", "float_head_lr")}
    changes |= {"train__num_steps": 9, "train__checkpoint_every": 1, "eval__loss_samples": 8}
    changes |= {"train__keep_checkpoints": 1, "train__tensorboard": True}
    return tmp_path / "run", runs.arguments(tmp_path / "run", tmp_path, **changes)


@pytest.mark.slow
def test_two_sets_have_their_own_curves_and_one_decides(two_sets):
    workdir, words = two_sets
    assert train.main(words) == 0
    lines = [line for line in metrics_log.read(workdir / "metrics.jsonl") if "val_OOD/loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]  # two more after the least end the run
    for name, added in ADDED.items():
        changes = [line[f"{name}/loss"] - lines[0][f"{name}/loss"] for line in lines]
        assert changes == pytest.approx(added, abs=1e-5)
    assert all(line["val_ID/loss"] != line["val_OOD/loss"] and "val/loss" not in line for line in lines)
    assert checkpoint.find_step(workdir, "best") == 2 and checkpoint.find_step(workdir, "last") == 4
    assert checkpoint.count(workdir) == 2  # the last, and the best besides
    meta = checkpoint.read_meta(workdir)
    assert meta["scores"]["val_OOD/loss"] == lines[-1]["val_OOD/loss"] and meta["patience"]["num_worse"] == 2
    assert board(workdir) == {
        (line["step"], key): pytest.approx(line[key]) for line in lines for key in ("val_ID/loss", "val_OOD/loss")
    }
    checkpoint.go_back(workdir, "best")  # what was counted until then goes on
    assert train.main(words) == 0 and checkpoint.find_step(workdir, "last") == 4
    again = [line for line in metrics_log.read(workdir / "metrics.jsonl") if "val_OOD/loss" in line]
    assert again == lines and checkpoint.find_step(workdir, "best") == 2


def board(workdir):
    """What TensorBoard is given of held-out losses: (step, name) -> value."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for path in (workdir / "tensorboard").glob("events.*"):
        content = path.read_bytes()
        while content:  # a record: its length, 4 bytes, itself, 4 bytes
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            values = [value for value in event.summary.value if value.tag.endswith("/loss")]
            found |= {(event.step, value.tag): value.simple_value for value in values}
    return found


@pytest.mark.parametrize("sets, message", [
    ("(('a',),)", "must be .name, images, labels"),
    ("(('a b', 'x.tar'),)", "must be one word"),
    ("(('a', 'x.tar'), ('a', 'y.tar'))", "of one set alone"),
    ("(('lr', 'x.tar'),)", "neither train nor lr"),
])  # fmt: skip
def test_sets_that_cannot_be(sets, message):
    with pytest.raises(UserError, match=message):
        configs.load(["--config=tiny", f"--config.data.val_sets={sets}"])


def test_the_first_set_is_meant_where_none_is_named():
    sets = "--config.data.val_sets=(('val_ID', 'a.tar', 'a.json'), ('val_OOD', 'b.tar', 'b.json'))"
    assert configs.best_metric(configs.load(["--config=tiny", sets])[0]) == "val_ID/loss"
    named = "--config.eval.best_metric=val_OOD/l2"
    assert configs.best_metric(configs.load(["--config=tiny", sets, named])[0]) == "val_OOD/l2"
    assert configs.best_metric(configs.load(["--config=tiny", "--config.eval.best_metric=val/loss"])[0]) == "val/loss"
    with pytest.raises(UserError, match=r"choose one of .*val_OOD/l2"):
        configs.load(["--config=tiny", sets, "--config.eval.best_metric=val_X/l2"])


@pytest.mark.parametrize("key, metric", [("loss_every", "loss"), ("generate_every", "val/l2")])
def test_patience_needs_measurements(key, metric):
    words = ["--config=tiny", f"--config.eval.{key}=0", f"--config.eval.best_metric={metric}"]
    configs.load(words)
    with pytest.raises(UserError, match=f"is 2, but eval.{key}=0 never measures eval.best_metric={metric}"):
        configs.load([*words, "--config.eval.patience=2"])
