"""The report of a study: one HTML file that opens from disk, fetches nothing, and escapes every value.

It is whole without JavaScript and on paper: pictures, sentences, tables. With JavaScript its charts can be asked. The
data of charts is embedded once, as JSON in which `<`, `>` and `&` are escaped. A policy of the page names its scripts
by their hashes, so a browser runs no other, and none may open a connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lensrl.compare.patching import OnProgress
from lensrl.compare.progress import with_bar
from lensrl.show.charts.chart import packed
from lensrl.show.sections import content
from lensrl.show.words import number, p_value, typeset
from lensrl.store.file.atomic import new_file
from lensrl.store.study import Study

REPORT_FILE = "report.html"


@with_bar("report")
def write_report(
    study: Study,
    path: str | Path | None = None,
    *,
    layers: Collection[int] | None = None,
    controls: bool = False,
    beside: Sequence[str | Path] = (),
    on_progress: OnProgress | None = None,
) -> Path:
    """Write the report of a study, by default to `report.html` in the study's folder. Returns the report's path.

    `layers` names the single layers that have a training curve of their own; by default see `lensrl.plot.training`.
    With `controls`, those that take models and minutes are measured, too (`lensrl.show.measured_controls`). `beside`
    are folders of other studies, or CSV tables: the profile of the study is compared with theirs (`lensrl.agree`).
    `on_progress(section, done, total)` is called before each section.
    """
    path = Path(path) if path is not None else study.path / REPORT_FILE
    html = render(study, layers=layers, controls=controls, beside=beside, on_progress=on_progress)
    with new_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def render(
    study: Study,
    *,
    layers: Collection[int] | None = None,
    controls: bool = False,
    beside: Sequence[str | Path] = (),
    on_progress: OnProgress | None = None,
    live: str = "",
) -> str:
    """Return the page. `live` is the address, on the page's own server, that says how far a study is."""
    headings: dict[str, str] = {}  # id -> title, in the order of the page

    def heading(title: str) -> Markup:
        place = f"section-{len(headings) + 1}"
        headings[place] = title
        return Markup('<h2 id="{}">{}</h2>').format(place, title)

    known = content(study, layers, on_progress, with_controls=controls, beside=beside)
    body = _environment().get_template("sections.html.j2").render(known | {"heading": heading})
    charts = {name: chart.as_data() for name, chart in known["charts"].items()}
    data = {"charts": charts}
    if known["answers"] is not None:
        data["completions"] = packed(known["answers"].rows)
    return _whole(study.name, Markup(body), headings, data, live)


def render_message(name: str, message: str, *, live: str) -> str:
    """Return a page that says why there is none yet. `live`: see `render`."""
    return _whole(name, Markup("<h1>{}</h1><p>{}</p>").format(name, message), {}, {"charts": {}}, live)


def render_list(title: str, entries: Sequence[tuple[str, str, str]]) -> str:
    """Return a page that lists other pages: address, name, and what to say of each."""
    row = '<div><b><a href="{}">{}</a></b><span>{}</span></div>'
    rows = Markup("").join(Markup(row).format(*entry) for entry in entries)
    return _whole(
        title, Markup('<h1>{}</h1><div class="facts list">{}</div>').format(title, rows), {}, {"charts": {}}, ""
    )


def _whole(name: str, body: Markup, headings: Mapping[str, str], data: Mapping[str, Any], live: str) -> str:
    scripts = [*([vega()] if data["charts"] else []), _template("page.js")]
    return _environment().get_template("report.html.j2").render(
        name=name, body=body, headings=headings.items(), style=Markup(_template("page.css")), live=live,
        data=as_json({"study": name, "live": live, **data}),
        scripts=[Markup(script) for script in scripts], policy=_policy(scripts, live),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lensrl.show"),
        autoescape=True,  # select_autoescape would miss the templates: it does not know the suffix .j2
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": lambda value: number(100 * value, 1),
        "p": p_value,
        "typeset": typeset,
    }
    return environment


def as_json(data: Any) -> Markup:
    """Return data as JSON that can stand in a <script>: no text in it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed in one script, with the licence."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    licence = "Vega, Vega-Lite, Vega-Embed: Copyright (c) 2015-2025, University of Washington Interactive Data Lab"
    return f"/* {licence}, BSD-3-Clause, https://github.com/vega */\n{script}"


def _template(name: str) -> str:
    return (resources.files("lensrl.show") / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: Collection[str], live: str) -> str:
    """Return the page's Content-Security-Policy: its own scripts run, nothing else does, and nothing is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    named = " ".join(f"'sha256-{digest}'" for digest in hashes)
    asked = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {named}; style-src 'unsafe-inline'; img-src data:; connect-src {asked}; "
        "base-uri 'none'; form-action 'none'"
    )
