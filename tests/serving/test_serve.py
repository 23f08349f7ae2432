"""`igllm serve`: the page in a browser, its API with a client, many requests at once, and bad uploads."""

import argparse
import json
import os
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.serve_picture import upload
from igllm_jax import api, make_data, serve
from igllm_jax.decoding.answers import Answer
from igllm_jax.decoding.generated import generated
from igllm_jax.errors import UserError
from igllm_jax.scene.language import find_language
from igllm_jax.serving import page as serving_page
from igllm_jax.serving.batching import Batcher
from igllm_jax.serving.drawing import agreement_table, draw_answer, table
from tests import runs
from tests.report.browser import browser_page

NUM_IMAGES = 5
CODE = "add(size='large', color='red', material='metal', shape='cube', loc=(+0.500, -1.250, +0.700), rotation=-0.250)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    counts = ["--num_train", "24", "--num_val", str(NUM_IMAGES), "--max_objects", "3", "--image_size", "48x32"]
    make_data.main(["clevr", "--out", str(folder), *counts, "--workers", "1"])
    with tarfile.open(folder / "images/val_ID.tar") as images:
        images.extractall(folder / "unpacked", filter="data")
    runs.untrained(folder / "run", folder)
    return folder


@pytest.fixture(scope="module")
def batcher(folder):
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", os.environ[runs.COMPILED])
    made = Batcher(api.load(folder / "run"), batch_size=8, max_new_tokens=40)
    yield made
    made.close()
    jax.config.update("jax_compilation_cache_dir", kept)


@pytest.fixture(scope="module")
def drawer(batcher):
    made = Batcher(batcher.model, batch_size=4, max_new_tokens=40, temperature=1.0, num_samples=2)
    yield made
    made.close()


@pytest.fixture
def paths(folder):
    return sorted((folder / "unpacked").rglob("*.png"))


def test_requests_that_come_together_are_answered_together(batcher, paths):
    alone = [one.code for one in batcher.model.generate(paths, max_new_tokens=40, batch_size=8)]
    images, batches = batcher.num_images, batcher.num_batches
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(batcher.ask, paths * 8))
    assert [one.code for one in found] == alone * 8
    assert batcher.num_images - images == 40 and 5 <= batcher.num_batches - batches < 40


@pytest.mark.slow
def test_draws_depend_on_the_image_alone(drawer, paths):
    with ThreadPoolExecutor(6) as pool:
        first, *found = pool.map(drawer.ask, [paths[0], *paths])
    codes = [sample.code for sample in first.samples]
    assert [sample.code for sample in found[0].samples] == [sample.code for sample in drawer.ask(paths[0]).samples]
    assert codes == [sample.code for sample in found[0].samples] and first.code == codes[0] != codes[1]
    assert [sample.code for sample in found[1].samples] != codes


def test_a_bad_image_is_told_and_harms_no_other(batcher, paths, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match="the image: cannot be decoded"):
        batcher.ask(tmp_path / "bad.png")
    assert batcher.ask(paths[0]).code


def test_an_answer_is_drawn_and_tabled(batcher):
    found = generated("a.png", Answer(CODE, True), batcher.model.data)
    drawing = draw_answer(found, batcher.model.data, (96, 64))
    assert drawing.picture.size == (96, 64)
    pixels = np.asarray(drawing.picture.convert("RGB")).astype(int)
    assert (pixels[..., 0] > pixels[..., 1] + 40).sum() > 20  # something red
    assert drawing.glb is None or drawing.glb[:4] == b"glTF"
    bare = draw_answer(generated("a.png", Answer("", True), batcher.model.data), batcher.model.data, (96, 64))
    assert bare.picture.size == (96, 64) and bare.glb is None and "no objects" in bare.note
    headers, rows = table(found, find_language("clevr"))
    assert dict(zip(headers, rows[0], strict=True)) == {
        "size": "large", "color": "red", "material": "metal", "shape": "cube",
        "location": "0.500, -1.250, 0.700", "rotation": "-0.250",
    }  # fmt: skip


def test_agreement_is_tabled(batcher):
    other = CODE.replace("red", "blue").replace("+0.500", "+0.700")
    samples = (Answer(CODE, True), Answer(other, True))
    found = generated("a.png", Answer(CODE, True, samples=samples), batcher.model.data)
    headers, rows = agreement_table(found, find_language("clevr"))
    said = dict(zip(headers, rows[0], strict=True))
    assert said["found"] == "100%" and said["color"] == "red (50%)" and said["size"] == "large (100%)"
    assert said["location"] == "0.500, -1.250, 0.700 \u00b1 0.100, 0.000, 0.000"


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(UserError, match=r"igllm serve needs Gradio: pip install 'igllm_jax\[serve\]'"):
        serve.main(["--workdir", "run"])


@pytest.fixture(scope="module")
def address(batcher, drawer, folder, tmp_path_factory):
    pytest.importorskip("gradio")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    made = serving_page.build_page(batcher, "run", serve.open_images(folder / "images/val_ID.tar"), drawer)
    yield serving_page.launch(made, host="127.0.0.1", port=None, max_upload_mb=1)
    made.close(verbose=False)
    from gradio.route_utils import delete_files_created_by_app

    delete_files_created_by_app(made, age=None)
    left = [path.name for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith((".glb", ".png"))]
    del os.environ["GRADIO_TEMP_DIR"]


def test_the_api_answers_a_client(address, batcher, drawer, paths, tmp_path):
    client_module = pytest.importorskip("gradio_client")
    client = client_module.Client(address, verbose=False)
    answer = client.predict(client_module.handle_file(str(paths[0])), api_name="/generate")
    assert answer["code"] == batcher.ask(paths[0]).code and answer["is_finished"] in (True, False)
    drawn = client.predict(client_module.handle_file(str(paths[0])), api_name="/samples")
    assert [one["code"] for one in drawn["samples"]] == [one.code for one in drawer.ask(paths[0]).samples]
    assert drawn["image"] == answer["image"] == paths[0].name and len(drawn["agreement"]) == len(drawn["calls"])
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    with pytest.raises(Exception, match="the image: cannot be decoded"):
        client.predict(client_module.handle_file(str(tmp_path / "bad.png")), api_name="/generate")
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    with pytest.raises(Exception, match="exceeds the maximum file size"):
        client.predict(client_module.handle_file(str(tmp_path / "large.png")), api_name="/generate")


def shows(code):
    """Whether the page shows this code, as an expression; its spaces are left out."""
    text = "".join(code.replace("```", "").split())
    return f"document.querySelector('#code .cm-content').innerText.replace(/\\s|```/g, '') === {json.dumps(text)}"


def test_the_page_in_a_browser(address, batcher, drawer, paths, tmp_path):
    """An image is uploaded as a person would, the code is read, another answer is chosen; nothing outside is asked
    for."""
    with browser_page(tmp_path) as page:
        upload(page, address, paths[0])
        page.wait(shows(batcher.ask(paths[0]).code))
        page.wait("document.querySelectorAll('#alternatives input').length === 3")
        assert "likeliest words: log-likelihood -" in page.run("document.querySelector('#alternatives').innerText")
        page.run("document.querySelectorAll('#alternatives input')[2].click()")
        page.wait(shows(drawer.ask(paths[0]).samples[1].code))
        assert "%" in page.run("document.querySelector('#agreement').innerText")
        own = (address, "data:", "blob:", "about:", address.replace("127.0.0.1", "localhost"))
        assert not [url for url in page.requests if not url.startswith(own)]


def test_the_command_serves_until_sigterm(folder, tmp_path):
    pytest.importorskip("gradio")
    words = ["--workdir", str(folder / "run"), "--batch_size", "1", "--max_new_tokens", "40", "--num_samples", "2"]
    process = runs.start("serve", *words, environment={"GRADIO_TEMP_DIR": str(tmp_path)})
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and "Ctrl-C" in line, process.communicate()[1]
    process.send_signal(signal.SIGTERM)
    out, told = runs.finish(process, timeout=60)
    assert out == "" and "Traceback" not in told


def test_what_is_wrong_with_a_flag_is_one_line():
    assert serve.parse(["--workdir", "r"]).host == "127.0.0.1"
    for words, message in (
        (["--workdir", "r", "--port", "70000"], "--port: expected a whole number from 1 to 65535"),
        ([], "one of the arguments --workdir --model is required"),
        (["--workdir", "r", "--temperature", "0"], "draw tokens, so they need a temperature above 0"),
        (["--workdir", "r", "--num_samples", "-1"], "--num_samples: expected a whole number from 0 to 4096"),
    ):
        with pytest.raises(UserError, match=message):
            serve.parse(words)
    assert isinstance(serve.parse(["--model", "m"]), argparse.Namespace)
