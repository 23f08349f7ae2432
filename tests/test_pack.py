import json
import sys
from pathlib import Path

import numpy as np
import pytest

from igllm_jax import pack
from igllm_jax.data.examples import load_examples
from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.data.tars import open_images
from igllm_jax.errors import UserError
from tests.data import conftest, samples
from tests.data.test_pipeline import assert_same

own_cache, tiny = conftest.own_cache, conftest.tiny  # the data tests' fixtures


@pytest.fixture
def data(tmp_path):
    samples.clevr_set(tmp_path / "data", count=11)
    samples.clevr_set(tmp_path / "data", count=3, seed=1, name="val_ID")
    return tmp_path / "data"


def source(data, name="train"):
    return samples.Source(str(data / "images" / f"{name}.tar"), str(data / "labels" / f"{name}.json"))


def test_packed_equals_tar(data, tmp_path, tiny, capsys):
    assert pack.main(["--data", str(data), "--out", str(tmp_path / "packed"), "--name", "own"]) == 0
    said = capsys.readouterr()
    assert (
        f'--config.data.train.images=tfds:{tmp_path}/packed/own/1.0.0/train --config.data.train.labels=""' in said.err
    )
    folder = Path(said.out.strip())
    assert folder == tmp_path / "packed" / "own" / "1.0.0"
    for spec in (f"tfds:{folder}/train", f"tfds:{tmp_path / 'packed'}/train"):
        packed = TrainPipeline([samples.Source(spec)], samples.options(), tiny, seed=0, batch_size=4)
        plain = TrainPipeline([source(data)], samples.options(), tiny, seed=0, batch_size=4)
        for step in (0, 5):
            assert_same(packed.batch(step), plain.batch(step))
    images = open_images(f"tfds:{folder}/val_ID")
    assert images.names == [f"CLEVR_val_ID_{index:06d}.png" for index in range(3)]
    assert "tensorflow" not in sys.modules


def test_other_readers_read_it(data, tmp_path):
    import tensorflow_datasets as tfds

    folder = pack.pack(data, tmp_path / "packed", "own")
    records = tfds.data_source("own", data_dir=str(tmp_path / "packed"), split="train")
    assert len(records) == 11
    image = open_images(source(data).images).read(4)
    assert (records[4]["image"] == np.asarray(image)).all()
    labels = json.loads((data / "labels" / "train.json").read_text())["scenes"]
    assert json.loads(records[4]["label"]) == labels[4]
    (folder / "labels-train.json").unlink()  # only what makes opening quick
    assert open_images(f"tfds:{folder}/train").labels == labels


def test_resumed_mixture_over_packed_and_tar(data, tmp_path, tiny):
    folder = pack.pack(data, tmp_path / "packed", "own")
    mixture = [(samples.Source(f"tfds:{folder}/train"), 2.0), (source(data, "val_ID"), 1.0)]
    whole = TrainPipeline(mixture, samples.options(), tiny, seed=0, batch_size=3)
    resumed = TrainPipeline(mixture, samples.options(num_workers=1), tiny, seed=0, batch_size=3)
    assert resumed.fingerprint == whole.fingerprint
    with whole.iterate(0) as uninterrupted, resumed.iterate(4) as batches:
        for _ in range(4):
            next(uninterrupted)
        for _ in range(3):
            assert_same(next(batches), next(uninterrupted))


def clevr_of_tfds(folder, raw):
    """A small set of TFDS's own `clevr`, as it is prepared elsewhere: its features, our records."""
    import tensorflow_datasets as tfds

    features = tfds.builder("clevr", data_dir=str(folder / "nothing")).info.features
    assert "question_answer" in features

    class Clevr(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.1.0")
        name = "clevr"
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for label, image in raw:
                yield (
                    label["image_filename"],
                    {
                        "image": image,
                        "file_name": label["image_filename"],
                        "objects": label["objects"],
                        "question_answer": [{"question": "Why?", "answer": "so"}],
                    },
                )

    tfds.disable_progress_bar()
    Clevr(data_dir=str(folder), file_format="array_record").download_and_prepare()


def test_tfds_own_clevr(tmp_path, tiny, monkeypatch):
    rng = np.random.default_rng(0)
    raw = {f"CLEVR_train_{index:06d}.png": None for index in range(5)}
    raw = {name: (samples.label(name, rng, 1 + index), samples.png(rng)) for index, name in enumerate(raw)}
    clevr_of_tfds(tmp_path, raw.values())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for spec in (f"tfds:{tmp_path}/clevr/3.1.0/train", f"tfds:{tmp_path}/clevr/train"):
        images = open_images(spec)
        assert sorted(images.names) == sorted(raw)
        for index, (name, scene) in enumerate(zip(images.names, images.scenes("clevr"), strict=True)):
            label, content = raw[name]
            assert images.read_bytes(index) == content
            for one, other in zip(scene.objects, label["objects"], strict=True):
                assert (one.size, one.color, one.material, one.shape) == tuple(other[key] for key in samples.WORDS)
                np.testing.assert_allclose(one.location, other["3d_coords"], rtol=1e-6)
                np.testing.assert_allclose(one.rotation, other["rotation"], rtol=1e-6)
                np.testing.assert_allclose(one.pixel, other["pixel_coords"], rtol=1e-6)
    batch = TrainPipeline([samples.Source(spec)], samples.options(), tiny, seed=0, batch_size=3).batch(0)
    assert batch.is_number.any()
    # its labels are kept: opening it again reads no images
    from igllm_jax.data.records import Records

    monkeypatch.setattr(Records, "_records", None)
    assert len(open_images(spec)) == 5


def test_tfds_own_clevr_by_name(tmp_path):
    """TFDS looks where $TFDS_DATA_DIR points, when it is imported."""
    import os
    import subprocess

    rng = np.random.default_rng(0)
    clevr_of_tfds(tmp_path, [(samples.label("a.png", rng, 2), samples.png(rng))])
    code = "from igllm_jax.data.tars import open_images; print(open_images('tfds:clevr/train').names)"
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path)}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['a.png']"


def test_errors(data, tmp_path):
    with pytest.raises(UserError, match=r"nothing: has no split with both labels/SPLIT.json and images/SPLIT.tar"):
        pack.pack(tmp_path / "nothing", tmp_path / "packed", "own")
    with pytest.raises(UserError, match=r"--name My-set: use small letters"):
        pack.pack(data, tmp_path / "packed", "My-set")
    folder = pack.pack(data, tmp_path / "packed", "own")
    with pytest.raises(UserError, match=r"own/1.0.0 exists already; choose another --out or --name"):
        pack.pack(data, tmp_path / "packed", "own")
    with pytest.raises(UserError, match=r"there is no split val; choose one of train, val_ID"):
        open_images(f"tfds:{folder}/val")
    with pytest.raises(UserError, match=r"expected tfds:NAME/SPLIT or tfds:FOLDER/SPLIT"):
        open_images("tfds:train")
    with pytest.raises(UserError, match=r"neither a folder nor a prepared data set; .*TFDS_DATA_DIR"):
        open_images("tfds:no_such_set/train")
    with pytest.raises(
        UserError, match=r"the folder holds none; a data set's folder is the one with dataset_info.json"
    ):
        open_images(f"tfds:{data}/train")
    with pytest.raises(
        UserError, match=r"none.json: do not exist; tfds:.*/train brings its own, which an empty `labels`"
    ):
        load_examples(samples.Source(f"tfds:{folder}/train", "none.json"), samples.options())
    pack.pack(data, tmp_path / "packed", "other")
    with pytest.raises(UserError, match=r"the folder holds several data sets \(.*\); name one"):
        open_images(f"tfds:{tmp_path / 'packed'}/train")
    labels = data / "labels" / "train.json"
    labels.write_text(labels.read_text().replace("CLEVR_train_000000", "gone"))
    with pytest.raises(UserError, match=r"train.tar: holds no image gone.png.*\(labels .*train.json\)"):
        pack.pack(data, tmp_path / "packed", "third")
    assert not (tmp_path / "packed" / "third").exists()
    labels.write_text("[[]]")
    with pytest.raises(UserError, match=r"train.json: expected a list of scenes"):
        pack.pack(data, tmp_path / "packed", "third")


@pytest.mark.parametrize("name", ["val-ID", "1t", "_x", "é"])
def test_splits_that_can_be_read_back(tmp_path, name):
    samples.clevr_set(tmp_path / "data", count=2, name=name)
    folder = pack.pack(tmp_path / "data", tmp_path / "packed", "own")
    images = open_images(f"tfds:{folder}/{name}")
    assert images.names == [f"CLEVR_{name}_{index:06d}.png" for index in range(2)] and images.read(1).size == (19, 13)


@pytest.mark.parametrize("name", ["a.b", "train[0]", "a b", "a+b", "all", "All"])
def test_splits_that_could_not_be_read_back_are_refused(tmp_path, name):
    samples.clevr_set(tmp_path / "data", count=1, name=name)
    with pytest.raises(UserError, match=r"\.json: a split that is called so could not be read back"):
        pack.pack(tmp_path / "data", tmp_path / "packed", "own")
    assert not (tmp_path / "packed").exists()


def test_labels_that_no_set_can_hold(data, tmp_path):
    labels = data / "labels" / "train.json"
    scenes = json.loads(labels.read_text())["scenes"]
    scenes[4]["image_filename"] = "images/train/CLEVR_train_000001.png"
    cases = {
        json.dumps(scenes): r"train.json: scenes 1 and 4 both describe image CLEVR_train_000001.png \(the second",
        json.dumps([{**scenes[0], "note": "\ud800"}]): r"train.json, scene 0: has halves of characters",
        "[" * 100_000: r"train.json: not JSON",
        "[]": r"train.json: hold no scenes",
    }
    for text, message in cases.items():
        labels.write_text(text)
        with pytest.raises(UserError, match=message):
            pack.pack(data, tmp_path / "packed", "own")
    labels.write_text("\ufeff" + json.dumps(scenes[:3]))
    assert len(open_images(f"tfds:{pack.pack(data, tmp_path / 'packed', 'own')}/train")) == 3


def test_damaged_packed_sets(data, tmp_path, monkeypatch):
    folder = pack.pack(data, tmp_path / "packed", "own")
    spec = f"tfds:{folder}/val_ID"

    def refused(file, content, message):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(content(whole))
        with pytest.raises(UserError, match=message):
            open_images(spec).read(0)
        (folder / file).write_bytes(whole)

    records = next(file.name for file in folder.glob("*val_ID.array_record*"))
    labels, features, info = "labels-val_ID.json", "features.json", "dataset_info.json"
    refused(labels, lambda whole: whole[:-1], r"labels-val_ID.json: not JSON")
    refused(labels, lambda whole: b"\xff" + whole, r"labels-val_ID.json: not JSON")
    refused(labels, lambda whole: b"[{}]", r"labels-val_ID.json: expected a list of scenes, each with image_filename")
    refused(labels, lambda whole: json.dumps(json.loads(whole)[:2]).encode(), r"holds 2 scenes, .* 3 records")
    refused(
        labels,
        lambda whole: json.dumps(json.loads(whole)[::-1]).encode(),
        r"record 0 is image CLEVR_val_ID_000000.png, but its label is of CLEVR_val_ID_000002.png",
    )
    refused(features, lambda whole: b"[" * 9999, r"features.json: not JSON")
    refused(features, lambda whole: b"{}", r"cannot be read .*copy the set again, or pack it again")
    refused(features, lambda whole: whole.replace(b"core.features", b"core.nothing"), r"its description cannot be read")
    only_text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    refused(features, lambda whole: json.dumps(only_text).encode(), r"its description cannot be read \(TypeError")
    refused(info, lambda whole: b"[]", r"its description cannot be read")
    refused(info, lambda whole: whole.replace(b'"3"', b'"4"'), r"val_ID.json: holds 3 scenes, .* 4 records")
    refused(records, lambda whole: whole[: len(whole) // 2], r"record|its records cannot be read")
    assert open_images(spec).read(0).size == (19, 13)


def test_a_set_that_names_foreign_code_runs_none_of_it(data, tmp_path, monkeypatch):
    folder = pack.pack(data, tmp_path / "packed", "own")
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = folder / "features.json"
    file.write_bytes(file.read_bytes().replace(b"tensorflow_datasets.core.features.text_feature", b"hostile_module"))
    with pytest.raises(UserError, match=r"features.json: names a feature hostile_module.Text that is none of TFDS's"):
        open_images(f"tfds:{folder}/train")
    assert "hostile_module" not in sys.modules
