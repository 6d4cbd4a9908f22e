"""`worldsim compare`: a page on this machine that shows two clips and keeps what a person chooses."""

import html
import json
import random
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlparse

import tyro

from worldsim.evaluation.elo import Choice, elo_ratings, ranks

SCORES = {"left": 1.0, "tie": 0.5, "right": 0.0}
PAGE = """<!doctype html><meta charset='utf-8'><title>Which world holds together?</title>
<style>body{{font-family:sans-serif;background:#18181c;color:#eee;text-align:center}} video{{width:46vw;margin:.5vw}}
button{{font-size:1.3em;margin:.4em;padding:.4em 1.2em}} table{{margin:auto}} td{{padding:.1em 1em}}</style>
<h2>Which world holds together better?</h2>
<video src='/clip/{left}' autoplay loop muted></video><video src='/clip/{right}' autoplay loop muted></video>
<form method='post'><input type='hidden' name='pair' value='{pair}'>
<button name='choice' value='left'>left (&larr;)</button><button name='choice' value='tie'>neither (space)</button>
<button name='choice' value='right'>right (&rarr;)</button></form>
<p>{count} choices so far, kept in {kept}</p><table>{table}</table>
<script>onkeydown=e=>{{const k={{ArrowLeft:'left',' ':'tie',ArrowRight:'right'}}[e.key];
if(k){{e.preventDefault();document.querySelector(`[value=${{k}}]`).click()}}}}</script>"""


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Two clips of one start, side by side; which variant is where is not said."""

    folder: tyro.conf.Positional[Path]
    """folder of an ablation: VARIANT/drift/clips/NNN.mp4, written by worldsim evaluate drift --clips"""
    port: int = 8010
    """of this machine alone; 0 takes a free one"""
    seed: int | None = None
    """order of the pairs; None: another each time"""


class Clips:
    """The variants' clips, and the choices made between them."""

    def __init__(self, folder: Path, seed: int | None = None) -> None:
        """ValueError if there are no two variants with a clip of the same start."""
        self.folder, self.kept = folder, folder / "choices.jsonl"
        found = sorted(folder.glob("*/drift/clips/*.mp4"))
        self.by_start: dict[str, list[Path]] = {}
        for path in found:
            self.by_start.setdefault(path.name, []).append(path)
        self.by_start = {name: paths for name, paths in self.by_start.items() if len(paths) > 1}
        if not self.by_start:
            raise ValueError(
                f"{folder} has {len(found)} clips and no two variants of one start; run worldsim evaluate drift --clips 8 "
                "--out VARIANT/drift for two variants or more"
            )
        self.names = sorted({self.variant(path) for paths in self.by_start.values() for path in paths})
        self._random = random.Random(seed)

    def variant(self, path: Path) -> str:
        """Whose clip it is."""
        return path.relative_to(self.folder).parts[0]

    def draw(self) -> tuple[Path, Path]:
        """Two clips of one start, left and right by chance."""
        paths = self.by_start[self._random.choice(sorted(self.by_start))]
        left, right = self._random.sample(paths, 2)
        return left, right

    def keep(self, left: str, right: str, choice: str) -> None:
        """Append a choice. ValueError if it is none of left, right and tie, or a variant is not known."""
        if choice not in SCORES or not {left, right} <= set(self.names) or left == right:
            raise ValueError(
                f"choice {choice!r} between {left!r} and {right!r} is none; choose left, right or tie"
            )
        with self.kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Choice(left, right, SCORES[choice]))) + "\n")

    def choices(self) -> list[Choice]:
        """All that were kept; a torn last line is left out."""
        made = []
        if self.kept.exists():
            for line in self.kept.read_text(encoding="utf-8").splitlines():
                try:
                    made.append(Choice(**json.loads(line)))
                except (json.JSONDecodeError, TypeError):
                    continue
        return [each for each in made if {each.first, each.second} <= set(self.names)]

    def page(self) -> str:
        """Two clips, and the ratings so far."""
        left, right = self.draw()
        choices = self.choices()
        ratings = elo_ratings(choices, self.names)
        places = ranks(ratings)
        lines = [
            f"<tr><td>{places[name]}</td><td>{html.escape(name)}</td><td>{rating:.0f}</td></tr>"
            for name, rating in sorted(ratings.items(), key=lambda each: -each[1])
        ]
        return PAGE.format(
            left=quote(str(left.relative_to(self.folder))),
            right=quote(str(right.relative_to(self.folder))),
            pair=html.escape(json.dumps([self.variant(left), self.variant(right)]), quote=True),
            count=len(choices),
            kept=html.escape(str(self.kept)),
            table="" if len(choices) < 10 else "".join(lines),
        )

    def clip(self, name: str) -> bytes:
        """The video of that path below the folder. FileNotFoundError for any other file."""
        for paths in self.by_start.values():
            for path in paths:
                if str(path.relative_to(self.folder)) == name:
                    return path.read_bytes()
        raise FileNotFoundError(f"{name} is no clip of {self.folder}")


def serve(clips: Clips, port: int) -> ThreadingHTTPServer:
    """A server on this machine alone, not yet running. OSError if the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            try:
                if path.startswith("/clip/"):
                    self._answer(clips.clip(path.removeprefix("/clip/")), "video/mp4")
                elif path == "/":
                    self._answer(clips.page().encode(), "text/html; charset=utf-8")
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)
            except FileNotFoundError:
                self.send_error(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            form = parse_qs(self.rfile.read(length).decode())
            try:
                left, right = json.loads(form["pair"][0])
                clips.keep(left, right, form["choice"][0])
            except (KeyError, ValueError, TypeError):
                self.send_error(HTTPStatus.BAD_REQUEST, "no such choice")
                return
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", "/")
            self.end_headers()

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: a line a clip would hide the address."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def run_comparison(settings: ComparisonPage) -> None:
    """Serve the page until Ctrl-C."""
    clips = Clips(settings.folder, settings.seed)
    with serve(clips, settings.port) as server:
        print(
            f"open http://127.0.0.1:{server.server_address[1]} in a browser; Ctrl-C ends it, choices are kept in "
            f"{clips.kept}",
            flush=True,
        )
        server.serve_forever()
