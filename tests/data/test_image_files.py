"""Image files and patterns of them as a source of images."""

import pickle

from igllm_jax.data.tars import open_images
from tests.data.test_tars import LONG, files, same

__all__ = ["files"]


def test_image_files_and_patterns(tmp_path, files, capsys):
    for name, content in files.items():
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shots, odd = tmp_path / "shots/images", tmp_path / "odd[1].png"
    odd.write_bytes(files[LONG])
    (shots / "a/photo").write_bytes(files["images/a/x.png"])
    alone = open_images(shots / "a/x.png")
    assert alone.names == ["x.png"] and same(alone.read(0), files["images/a/x.png"])
    assert open_images([str(odd)]).names == ["odd[1].png"] and open_images(shots / "a/photo").names == ["photo"]
    found = open_images(f"{shots}/**/x.png")
    assert found.names == ["a/x.png", "b/x.png"] and same(found.read(1), files["./images/b/x.png"])
    both = open_images([shots / "b/x.png", f"{shots}/a/*", shots / "b/x.png"])
    assert both.names == ["b/x.png", "a/x.png", "a/y.JPG"]  # each once, in the order given; `photo` has no image's name
    assert f"{shots}/a/*: passed over 1 others that are no image files" in capsys.readouterr().err
    assert pickle.loads(pickle.dumps(both)).find("y.JPG") == 2
    assert len({source.fingerprint for source in (alone, found, both)}) == 3 and both.state and both.content
