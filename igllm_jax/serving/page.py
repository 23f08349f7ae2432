"""The page: an image in, its code, calls, drawing and 3D view out; and the same as JSON for programs.

Gradio makes both. Nothing of it reaches out: its measuring is off, fonts are the system's, and a content security
policy forbids the browser every address but the page's own.
"""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from igllm_jax.data.tars import ImageSource
from igllm_jax.decoding.generated import Generated
from igllm_jax.errors import UserError
from igllm_jax.serving.batching import Batcher
from igllm_jax.serving.drawing import agreement_table, draw_answer, table

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
MOST_LISTED = 1000  # images of a set that may be picked
SOURCES, BUTTONS = ["upload", "clipboard"], ["download", "fullscreen"]  # none that hands images to others
CACHE_AGE_S = 3600  # of uploads and drawings
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'self'"
)
_Seen = tuple[list[Generated], tuple[int, int]]  # answers for an image, and its width and height
INSTALL = "igllm serve needs Gradio: pip install 'igllm_jax[serve]'"


def import_gradio() -> Any:
    """Gradio. Raises: UserError with what to install where it is not there."""
    try:
        import gradio
    except ImportError:
        raise UserError(INSTALL) from None
    return gradio


class _Answers:
    """What happens when somebody asks: the functions behind the page's buttons and the API.

    batcher: writes the answer. drawer: draws several, None where nobody may ask for them.
    """

    def __init__(self, gradio: Any, batcher: Batcher, drawer: Batcher | None, source: ImageSource | None):
        self.gradio, self.batcher, self.drawer, self.source = gradio, batcher, drawer, source
        self.own_files: set[str] = set()  # Gradio's of the page: what it removes once it is old

    def _error(self, message: object) -> Exception:
        """What the page shows, and clients raise."""
        return self.gradio.Error(str(message), print_exception=False)

    def _ask(self, path: str | None, batcher: Batcher | None = None) -> Generated:
        if not path:
            raise self._error("there is no image yet: drop one, or pick one")
        try:
            return (batcher or self.batcher).ask(path)
        except UserError as error:
            raise self._error(error) from None

    def show(self, path: str | None) -> tuple[Any, ...]:
        """For the page: what `_shown` gives, and the answer, to which others may come."""
        found = self._ask(path)
        with Image.open(str(path)) as image:
            size = image.size
        return (*self._shown(found, size), ([found], size))

    def alternatives(self, path: str | None, seen: _Seen) -> tuple[Any, ...]:
        """For the page: answers to choose from, how far they agree, and all of them."""
        drawn = self._ask(path, self.drawer)
        answers = [*seen[0][:1], *drawn.samples]
        labels = ["likeliest words", *(f"drawn {number}" for number in range(1, len(answers)))]
        choices = [
            (f"{label}: log-likelihood {answer.log_likelihood:.1f}", number)
            for number, (label, answer) in enumerate(zip(labels, answers, strict=True))
        ]
        headers, rows = agreement_table(drawn, self.batcher.model.language)
        cells = self.gradio.Dataframe(value=rows or [[""] * len(headers)], headers=headers, visible=True)
        return self.gradio.Radio(choices, value=0, visible=True), cells, (answers, seen[1])

    def choose(self, number: int, seen: _Seen | None) -> tuple[Any, ...]:
        """For the page: another of the answers."""
        if seen is None or number >= len(seen[0]):
            raise self._error("these answers are gone: write the code again")
        return self._shown(seen[0][number], seen[1])

    def _shown(self, found: Generated, size: tuple[int, int]) -> tuple[Any, ...]:
        """Code, calls, drawing, 3D file and notes."""
        drawing = draw_answer(found, self.batcher.model.data, size)
        headers, rows = table(found, self.batcher.model.language)
        notes = [*found.problems, *([drawing.note] if drawing.note else [])]
        notes += [] if found.is_finished else [f"did not end within {self.batcher.max_new_tokens} tokens"]
        model = None if drawing.glb is None else self._save(drawing.glb)
        cells = self.gradio.Dataframe(value=rows or [[""] * len(headers)], headers=headers)
        return found.code, cells, drawing.picture, model, "\n".join(f"- {note}" for note in notes)

    def _save(self, content: bytes) -> str:
        path = self.gradio.processing_utils.save_bytes_to_cache(
            content, "scene.glb", self.gradio.utils.get_upload_folder()
        )
        self.own_files.add(path)
        return str(path)

    def generate(self, path: str | None) -> dict[str, Any]:
        """The answer as JSON values, for programs."""
        return _told(self._ask(path), path)

    def samples(self, path: str | None) -> dict[str, Any]:
        """Several drawn answers as JSON values, for programs."""
        return _told(self._ask(path, self.drawer), path)

    def pick(self, name: str | None) -> Image.Image | None:
        """An image of the set."""
        if self.source is None or name not in self.source.names:
            return None
        try:
            return self.source.read(self.source.names.index(name), self.batcher.model.data.pixel_options)
        except UserError as error:
            raise self._error(error) from None


def build_page(batcher: Batcher, title: str, source: ImageSource | None = None, drawer: Batcher | None = None) -> Any:
    """The page as Gradio's Blocks. source: a set that images may be picked from. drawer: draws several answers."""
    gradio = import_gradio()
    answers = _Answers(gradio, batcher, drawer, source)
    limits = {"concurrency_limit": 2 * batcher.batch_size, "concurrency_id": "answers"}
    hidden = {"api_visibility": "private"}
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(CACHE_AGE_S // 2, CACHE_AGE_S)) as page:
        answers.own_files = page.upload_file_set
        gradio.Markdown(f"# {title}\nDrop an image: the model writes its scene's code, which is drawn again beside it.")
        given, drawn, turning = _pictures(gradio)
        if source is not None:
            names = list(source.names[:MOST_LISTED])
            picked = gradio.Dropdown(names, value=None, label=f"Or one of {source.origin}", elem_id="picked")
            picked.input(answers.pick, picked, given, **hidden)
        button = gradio.Button("Write the code", variant="primary", elem_id="write")
        code = gradio.Code(label="Code", language="python", interactive=False, elem_id="code")
        cells = gradio.Dataframe(label="Calls", interactive=False, elem_id="calls")
        shown = [code, cells, drawn, turning, gradio.Markdown(elem_id="notes")]
        seen = gradio.State(time_to_live=CACHE_AGE_S)
        written = button.click(answers.show, given, [*shown, seen], **hidden, **limits)
        if drawer is not None:
            label = "Other answers, drawn from the model's distribution"
            which = gradio.Radio([], label=label, visible=False, elem_id="alternatives")
            agreeing = {"label": "How far the drawn answers agree", "interactive": False, "elem_id": "agreement"}
            agreement = gradio.Dataframe(visible=False, **agreeing)
            written.success(answers.alternatives, [given, seen], [which, agreement, seen], **hidden, **limits)
            which.input(answers.choose, [which, seen], shown, **hidden)
        answer = gradio.JSON(visible=False)
        gradio.Button(visible=False).click(answers.generate, given, answer, api_name="generate", **limits)
        if drawer is not None:
            gradio.Button(visible=False).click(answers.samples, given, answer, api_name="samples", **limits)
    return page


def _pictures(gradio: Any) -> tuple[Any, Any, Any]:
    """The image, the code drawn, and in 3D, side by side."""
    with gradio.Row():
        shared = {"height": 320, "image_mode": None}
        given = gradio.Image(label="Image", type="filepath", sources=SOURCES, elem_id="given", **shared)
        given.preprocess = _uploaded
        shared = {"height": 320, "interactive": False}
        drawn = gradio.Image(label="The code, drawn", format="png", buttons=BUTTONS, elem_id="drawn", **shared)
        turning = gradio.Model3D(label="In 3D", elem_id="turning", **shared)
    return given, drawn, turning


def launch(page: Any, *, host: str, port: int | None, max_upload_mb: int) -> str:
    """Starts the server on threads; returns its address. Raises: UserError where the port is taken."""
    gradio = import_gradio()
    from starlette.middleware import Middleware

    plain = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, url, _ = page.queue(default_concurrency_limit=None).launch(
            server_name=host,
            server_port=port,
            max_file_size=max_upload_mb * 1_000_000,
            theme=gradio.themes.Default(**plain),
            app_kwargs={"middleware": [Middleware(OwnAddressesOnly)]},
            footer_links=["api"],
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            quiet=True,
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't be listened on ({error}); give another --port") from None
    return str(url)


class OwnAddressesOnly:
    """ASGI middleware: every answer tells browsers to ask no address but the page's own."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _uploaded(payload: Any) -> str | None:
    """The file as it was uploaded: what is wrong with it our own reader tells, whose words people understand."""
    return None if payload is None else payload.path


def _told(found: Generated, path: str | None) -> dict[str, Any]:
    """As JSON values, under the uploaded file's own name."""
    name = {"image": Path(str(path)).name}
    told = found.to_json() | name
    return told | ({"samples": [sample | name for sample in told["samples"]]} if found.samples else {})
