"""Serve the pages of studies on this machine alone, and make a page anew when a file of its study appears.

The server listens on 127.0.0.1. It answers GET for the names that a browser on this machine uses (`127.0.0.1`,
`localhost`): another name, which somebody's DNS points here, is refused, so no page from elsewhere can read a study.

    /                 the page of the only study, or a list of the studies
    /N/               the page of study N
    /N/state          how far study N is, as JSON: who makes what, at which step
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE
from lensrl.show.page import render, render_list, render_message
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.study import Study, open_study

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LOOK_EVERY = 2.0  # seconds between looks at a folder
MADE = ("completed", "collapsed", "diverged")


class Board:
    """The page of one study, as it was made last, and the state of its runs. Threads may ask it at once."""

    def __init__(self, folder: Path, place: int) -> None:
        open_study(folder).close()  # raises LensrlError where there is no study
        self.folder = folder
        self.name = folder.resolve().name
        self.live = f"/{place}/state"
        self.version = 0
        self.page = render_message(self.name, "The page is being made.", live=self.live)
        self._seen: object = None

    def look(self) -> None:
        """Make the page anew if a run, a result of patching or a table has appeared, changed or gone since."""
        seen = _stamps(
            [*self.folder.glob("*.h5"), *self.folder.glob("*.json"), *self.folder.glob(f"{PATCH_FOLDER}/*.h5")]
        )
        if seen == self._seen:
            return
        self._seen = seen
        try:
            with open_study(self.folder) as study:
                page = render(study, live=self.live) if BASE in study else self._waiting(study)
        except LensrlError as error:
            page = render_message(self.name, f"There is no page yet: {error}", live=self.live)
        except Exception as error:  # the board goes on, and both the page and the terminal say why
            traceback.print_exc()
            page = render_message(self.name, f"Making the page failed: {error!r}", live=self.live)
        self.page, self.version = page, self.version + 1

    def state(self) -> dict[str, Any]:
        """Return the version of the page, the number of runs that are made, and the runs that are not."""
        try:
            with open_study(self.folder) as study:
                rows = study.runs.rows()
        except LensrlError as error:
            return {"version": self.version, "error": str(error)}
        open_runs = [
            {"run": row["run"], "seed": "" if row["run"] == BASE else row["seed"], "status": row["status"],
             "reason": row["reason"]}
            for row in sorted(rows, key=lambda row: row["status"] != "running") if row["status"] not in MADE
        ]  # fmt: skip
        return {"version": self.version, "made": len(rows) - len(open_runs), "runs": len(rows), "open": open_runs}

    def _waiting(self, study: Study) -> str:
        return render_message(self.name, f"There is no page yet: {study.path} has no base run.", live=self.live)


def _stamps(paths: Sequence[Path]) -> object:
    """Return what tells that a file is another: its name, its size, its time."""
    found = []
    for path in sorted(paths):
        try:
            about = path.stat()
        except FileNotFoundError:  # it has just got another name
            continue
        found.append((path.name, about.st_size, about.st_mtime_ns))
    return found


class _Handler(BaseHTTPRequestHandler):
    boards: Sequence[Board]

    def do_GET(self) -> None:  # http.server's name
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in {f"{name}:{port}" for name in NAMES}:
            self._answer(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost alone\n", "text/plain")
            return
        first, _, rest = self.path.partition("?")[0].strip("/").partition("/")
        if first == "" and len(self.boards) > 1:
            self._answer(HTTPStatus.OK, _index(self.boards), "text/html")
        elif first == "favicon.ico":  # a browser asks for it, and would show an error
            self._answer(HTTPStatus.OK, "", "image/x-icon")
        elif not (first or "0").isdecimal() or int(first or 0) >= len(self.boards) or rest not in ("", "state"):
            self._answer(HTTPStatus.NOT_FOUND, "there is no such page\n", "text/plain")
        elif rest == "state":
            self._answer(HTTPStatus.OK, json.dumps(self.boards[int(first)].state()), "application/json")
        else:
            self._answer(HTTPStatus.OK, self.boards[int(first or 0)].page, "text/html")

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal has the address, and the page the rest."""


def _index(boards: Sequence[Board]) -> str:
    """Return the page that lists the studies, with how far each is."""
    return render_list("Studies", [(f"/{i}/", board.name, _how_far(board.state())) for i, board in enumerate(boards)])


def _how_far(state: dict[str, Any]) -> str:
    """Return in words how many runs are made, and which are being made now."""
    if "error" in state:
        return state["error"]
    now = [row["run"] for row in state["open"] if row["status"] == "running"]
    said = f"{state['made']} of {state['runs']} runs are made"
    return f"{said}; now {', '.join(now)}" if now else said


class Explorer:
    """A server of the pages of studies. `port` 0 takes a free one.

    Raises LensrlError for a folder that is no study, and for a port that is taken.
    """

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        boards = [Board(folder, i) for i, folder in enumerate(folders)]
        try:
            self._server = ThreadingHTTPServer((HOST, port), type("Handler", (_Handler,), {"boards": boards}))
        except OSError as error:
            raise LensrlError(f"port {port} of {HOST} cannot be used: {error.strerror}; leave --port out") from None
        self._server.daemon_threads = True
        self._boards = boards
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Answer until `close` is called, or KeyboardInterrupt."""
        self._watching.start()
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop looking and listening; a page that is being made is made first."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._watching.join()

    def _watch(self) -> None:
        while True:
            begun = time.monotonic()
            for board in self._boards:
                board.look()
            rest = max(LOOK_EVERY, time.monotonic() - begun)  # pages take at most half of a core from a study
            if self._ended.wait(rest):
                return
