"""The server of pages: who may ask it, what it answers, and that it follows a study that is being made."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensrl.errors import LensrlError
from lensrl.show import explore
from lensrl.show.explore import Explorer
from lensrl.store.file.atomic import new_file
from tests.store.synthetic import add_run, make_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_study(tmp_path / "one")
    add_run(made, "base", {"only": [0.0, 1.0]})
    return made


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Explorer]:
    """Two studies, of which the second is a copy. A page is the names of its runs: its making has tests of its own."""
    monkeypatch.setattr(explore, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(explore, "render", lambda study, live: f"{live} {sorted(name for name, _ in study.runs)}")
    explorer = Explorer([folder, Path(shutil.copytree(folder, tmp_path / "<b>two"))])
    thread = threading.Thread(target=explorer.serve)
    thread.start()
    yield explorer
    explorer.close()
    thread.join(10)
    assert not thread.is_alive()


def ask(explorer: Explorer, path: str, *, host: str | None = None) -> tuple[int, str]:
    port = int(explorer.url.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", path, skip_host=True)
    if host != "":
        connection.putheader("Host", (host or "127.0.0.1:PORT").replace("PORT", str(port)))
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def until(explorer: Explorer, path: str, text: str) -> str:
    end = time.monotonic() + 60
    while text not in (found := ask(explorer, path)[1]):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def test_a_page_is_made_anew_when_a_run_appears(served: Explorer, folder: Path) -> None:
    until(served, "/0/", "/0/state ['base']")
    before = json.loads(ask(served, "/0/state")[1])["version"]
    add_run(folder, "full-rl", {"only": [1.0, 1.0]})
    until(served, "/0/", "/0/state ['base', 'full-rl']")
    assert json.loads(ask(served, "/0/state")[1])["version"] > before
    assert ask(served, "/1/")[1] == "/1/state ['base']"


def test_the_state_says_who_makes_what(served: Explorer, folder: Path) -> None:
    with new_file(folder / "full-rl.seed-0.h5") as partial:
        state = json.loads(ask(served, "/0/state")[1])
        partial.write_bytes(b"")
        made = state["open"][0]
    assert (made["run"], made["seed"], made["status"]) == ("full-rl", 0, "running")
    assert "process" in made["reason"]
    assert state["made"] == 1
    assert {row["status"] for row in state["open"][1:]} == {"missing"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_name_than_this_machines_is_refused(served: Explorer, host: str) -> None:
    """DNS rebinding: a page from elsewhere whose name was pointed to this machine asks with its own name."""
    status, text = ask(served, "/0/state", host=host)
    assert status == 403
    assert "base" not in text


def test_it_answers_by_the_names_of_this_machine_and_lists_the_studies(served: Explorer) -> None:
    for host in ("127.0.0.1:PORT", "localhost:PORT"):
        status, text = ask(served, "/", host=host)
        assert status == 200
        assert "/0/" in text
        assert f"1 of {json.loads(ask(served, '/0/state')[1])['runs']} runs are made" in text
        assert "&lt;b&gt;two" in text
    assert ask(served, "/favicon.ico") == (200, "")
    for path in ("/2/", "/x", "/0/../../recipe.json", "/0/recipe.json", "/-1/", "/%C2%B2/"):
        assert ask(served, path)[0] == 404


def test_it_listens_on_this_machine_alone(served: Explorer) -> None:
    assert served._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_study_without_a_base_has_a_page_that_says_so(tmp_path: Path) -> None:
    board = explore.Board(make_study(tmp_path / "empty"), 0)
    board.look()
    assert "no base run" in board.page
    assert board.state()["open"]


def test_no_study_and_no_port_are_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(LensrlError, match="no study folder"):
        Explorer([tmp_path / "none"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LensrlError, match=f"port {port}"):
            Explorer([folder], port)
