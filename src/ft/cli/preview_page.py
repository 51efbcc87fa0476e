"""A preview as one HTML page: nothing is fetched, nothing can run, every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import Environment, StrictUndefined

from ft.cli.preview_figures import bucket_label, label_counts, repetition, run_lines
from ft.cli.visible import UNICODE, one_line, visible
from ft.data.excerpt import Span
from ft.data.lengths import LengthSummary
from ft.data.preview import DataPreview
from ft.data.report import LABELS_SHOWN, DatasetReport, count


def page(preview: DataPreview, title: str, *, shows_ids: bool) -> str:
    """The whole page.

    Args:
        preview: What to show.
        title: The config's name.
        shows_ids: Each token's id, too.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(line=_line, lines=_lines, count=count)
    return environment.from_string(_PAGE).render(
        preview=preview, title=title, shows_ids=shows_ids, pieces=_pieces, bars=_bars,
        repetition=repetition, labels=_labels,
        run=run_lines(preview.steps, preview.sequence_len) if preview.steps else (),
    )  # fmt: skip


def _line(text: object) -> str:
    return one_line(str(text), UNICODE)


def _lines(text: str) -> str:
    return "\n".join(map(_line, text.split("\n")))


def _pieces(spans: Iterable[Span]) -> Iterator[tuple[str, str]]:
    """Class and text of each span."""
    for span in spans:
        kinds = ["trained" if span.is_trained else "masked"]
        if span.is_gap:
            yield (
                " ".join([*kinds, "gap"]),
                f" {UNICODE.ellipsis} {count(span.num_tokens, 'token')} {UNICODE.ellipsis} ",
            )
        else:
            kinds += ["special"] if span.is_special else []
            yield " ".join(kinds), visible(span.text, UNICODE)


def _bars(lengths: LengthSummary) -> list[dict[str, Any]]:
    most = max(bucket.num_rows for bucket in lengths.buckets)
    return [
        {
            "label": bucket_label(bucket, UNICODE),
            "num_rows": bucket.num_rows,
            "share": f"{bucket.num_rows / lengths.num_rows:.0%}",
            "width": f"{100 * bucket.num_rows / most:.2f}",
        }
        for bucket in lengths.buckets
    ]


def _labels(report: DatasetReport) -> list[dict[str, Any]]:
    counts = label_counts(report)[:LABELS_SHOWN]
    return [
        {
            "label": name,
            "number": number,
            "share": f"{share:.0%}",
            "width": f"{100 * number / max(counts[0][1], 1):.2f}",
        }
        for name, number, share in counts
    ]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title|line }}: preview</title>
<style>
:root { color-scheme: light dark; --text: #1f2328; --back: #fff; --quiet: #656d76; --line: #d8dee4;
  --trained: #116329; --trained-back: #dafbe1; --bar: #0969da; --bad: #cf222e; --warn: #7d4e00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --quiet: #8d96a0;
  --line: #30363d; --trained: #7ee787; --trained-back: #12331d; --bar: #4493f8; --bad: #ff7b72;
  --warn: #d29922; } }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--back); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
small, .quiet { color: var(--quiet); font-weight: normal; }
pre { margin: .2rem 0 1rem; padding: .6rem .8rem; border: 1px solid var(--line);
  border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.55 ui-monospace, monospace; }
.masked { color: var(--quiet); }
.trained { color: var(--trained); background: var(--trained-back); font-weight: 600; }
.special { text-decoration: underline; text-underline-offset: 3px; }
.gap { font-style: italic; }
.bad { color: var(--bad); } .warn { color: var(--warn); }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td { padding: 1px .6rem 1px 0; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.number { text-align: right; } td.bar { width: 70%; }
.bar div { height: .9rem; min-width: 1px; background: var(--bar); border-radius: 2px; }
.meter { height: .9rem; background: var(--line); border-radius: 2px; }
.meter div { height: 100%; background: var(--trained); border-radius: 2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ title|line }} <small>what the model will see</small></h1>
<p>{% if not preview.tells_labels %}<span class="trained">trained</span> &nbsp;
<span class="masked">not trained</span> &nbsp;
{% endif %}<small>&#8629; line break &nbsp; &middot; space at an edge &nbsp; &rarr; tab &nbsp;
<span class="special">special token</span></small></p>
{% for problem in preview.problems %}
<pre class="bad">{{ problem.render()|lines }}</pre>
{% endfor %}
{% for warning in preview.warnings %}
<p class="warn">{{ warning|line }}</p>
{% endfor %}
{% for set in preview.sets %}
<h2>{{ set.path|line }} <small>{{ set.type|line }}{{ ", held out" if set.is_heldout }}</small></h2>
{% for record in set.records %}
{% if record.error %}
<p><code>{{ record.origin|line }}</code> <span class="bad">{{ record.error|line }}</span></p>
{% endif %}
{% for row in record.rows %}
<div><code>{{ record.origin|line }}</code>
<small{% if not (row.num_trained or row.label) %} class="bad"{% endif %}>
{{ row.part|line ~ ": " if row.part }}{{ row.tokens|length|count("token") }},
{% if row.label %}label <span class="trained">{{ row.label|line }}</span>
{% else %}{{ row.num_trained }} trained{% endif %}</small></div>
<pre>{% for kind, text in pieces(row.spans) %}<span class="{{ kind }}">{{ text }}</span>{% endfor %}
</pre>
{% if shows_ids %}
<pre>{% for token in row.tokens %}<span class="{{ 'trained' if token.is_trained else 'masked' }}">
{{- token.id }}:{{ token.piece|line }}</span> {% endfor %}
</pre>
{% endif %}
{% endfor %}
{% endfor %}
{% if set.account %}
{% set report = set.account.report %}
{% if set.account.lengths %}
<table>
<tr class="quiet"><td class="number">tokens</td><td class="number">rows</td><td></td><td></td></tr>
{% for bar in bars(set.account.lengths) %}
<tr><td class="number">{{ bar.label }}</td><td class="number">{{ bar.num_rows }}</td>
<td class="number">{{ bar.share }}</td>
<td class="bar"><div style="width: {{ bar.width }}%"></div></td></tr>
{% endfor %}
</table>
<p class="quiet">{% for name, value in set.account.lengths.quantiles.items() %}
{{ name }} {{ value }} &middot; {% endfor %} sequence_len {{ preview.sequence_len }}</p>
{% if preview.tells_labels %}
{% if report.num_of_label %}
<table>
<tr class="quiet"><td class="number">label</td><td class="number">records</td></tr>
{% for each in labels(report) %}
<tr><td class="number{{ ' bad' if not each.number }}">{{ each.label|line }}</td>
<td class="number">{{ each.number }}</td><td class="number">{{ each.share }}</td>
<td class="bar"><div style="width: {{ each.width }}%"></div></td></tr>
{% endfor %}
</table>
{% if report.num_of_label|length > labels(report)|length %}
<p class="quiet">and {{ (report.num_of_label|length - labels(report)|length)|count("more label") }}
</p>
{% endif %}
{% endif %}
{% else %}
{% set share = 100 * report.num_trained_tokens / [report.num_tokens, 1]|max %}
<div class="meter"><div style="width: {{ share|round(2) }}%"></div></div>
<p>{{ share|round(1) }} % of {{ report.num_tokens|count("token") }} are trained</p>
{% endif %}
{% endif %}
<dl>
<dt>kept</dt><dd>{{ report.num_kept }} of {{ report.num_read|count("record") }}</dd>
{% for reason, tally in report.drops.items() %}
<dt>left out</dt><dd><span class="bad">{{ tally.count }}: {{ reason|line }}</span>
{% for drop in tally.examples %}
<br>{{ drop|line }}
{% if drop.record %}
<br><span class="quiet">{{ drop.record|line }}</span>
{% endif %}
{% endfor %}
</dd>
{% endfor %}
{% if report.num_truncated %}
<dt>cut</dt><dd class="warn">{{ report.num_truncated|count("record") }}
{% for origin, num_tokens in set.account.truncated %}
<br>{{ origin|line }}: {{ num_tokens }} tokens{% endfor %}
</dd>
{% endif %}
{% if set.account.duplicates.pair %}
{% set found = set.account.duplicates %}
<dt>repeated</dt><dd class="warn">{{ found.num_rows|count("row") }}:
{{ repetition(found)|line }}
{% if found.num_in_training %}
<br>{{ found.num_in_training|count("held-out row") }} trained on, too
{% endif %}
</dd>
{% endif %}
{% for note in report.notes %}
<dt>note</dt><dd class="warn">{{ note|line }}</dd>
{% endfor %}
</dl>
{% endif %}
{% endfor %}
{% if run %}
<h2>the run</h2>
<dl>
{% for name, text in run %}
<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>
{% endif %}
</body>
</html>
"""
