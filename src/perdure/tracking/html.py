"""The HTML document around a report: CSS for light and dark, phones, wide screens and print."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; --background: #fbfaf7; --card: #fff; --text: #1d2327;
  --muted: #5b6770; --edge: #e1ddd3; --accent: #12708a; --lift: 0%; --good: #19734a;
  --warn: #93590a; --bad: #ad2b2b; }
@media (prefers-color-scheme: dark) { :root { --background: #14181b; --card: #1c2226;
  --text: #e8eaeb; --muted: #9aa6ae; --edge: #333c42; --accent: #5cc1d8; --lift: 45%;
  --good: #63c795; --warn: #e0a84e; --bad: #f08a8a; } }
@media print { :root { color-scheme: light; --background: #fff; --card: #fff; --text: #000;
  --muted: #444; --edge: #bbb; --accent: #12708a; --lift: 0%; }
  section, figure { break-inside: avoid; } }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem;
  background: var(--background); color: var(--text); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { margin: .5rem 0 .25rem; font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2;
  overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .7rem; font-size: 1.1rem; border-bottom: 1px solid var(--edge);
  padding-bottom: .3rem; }
h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
.under, figcaption, summary, .path { color: var(--muted); }
.under { margin: 0 0 1rem; }
.status { font-weight: 600; padding: .1rem .6rem; border-radius: 1rem; border: 1px solid; }
.finished { color: var(--good); } .interrupted, .running, .unknown { color: var(--warn); }
.failed, .error { color: var(--bad); }
.error, .notice { margin: .4rem 0; padding: .5rem .8rem; border-left: 3px solid;
  background: var(--card); overflow-wrap: anywhere; }
.headline { max-width: 52rem; margin: .6rem 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.command { overflow-x: auto; padding: .7rem .9rem; background: var(--card); font-size: .85rem;
  border: 1px solid var(--edge); border-radius: .4rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .7rem;
  margin: 1rem 0 0; }
.cards div { background: var(--card); border: 1px solid var(--edge); border-radius: .6rem;
  padding: .7rem .9rem; }
.cards dt { color: var(--muted); font-size: .82rem; line-height: 1.3; }
.cards dd { margin: .15rem 0 0; font-size: 1.35rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr));
  gap: .8rem 1.6rem; }
.stack { display: grid; gap: .8rem; } .stack > * { min-width: 0; }
figure { margin: 0; min-width: 0; } .chart { max-width: 42rem; }
figcaption { font-size: .9rem; margin-bottom: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums; }
.matrix { font-size: .85rem; }
.matrix th { font-weight: 500; color: var(--muted); padding: 0 .4rem; }
.matrix tbody td { min-width: 3.1rem; padding: .45rem .2rem; text-align: center;
  border-radius: .2rem; }
.matrix.many { font-size: .68rem; border-spacing: 1px; }
.matrix.many tbody td { min-width: 2.1rem; padding: .2rem .05rem; }
.metrics { border-spacing: 0; } .metrics th, .metrics td { padding: .3rem 1.4rem .3rem 0; }
.metrics th { text-align: left; font-weight: 500; }
.metrics td { text-align: right; white-space: nowrap; }
.metrics thead th { color: var(--muted); font-size: .85rem; }
.metrics thead th:not(:first-child) { text-align: right; }
.metrics tbody * { border-top: 1px solid var(--edge); } .metrics tbody tr { border: 0; }
.classes { columns: 14rem; column-gap: 1.6rem; }
.bars { width: 100%; border-spacing: 0; font-size: .85rem; break-inside: avoid;
  margin-bottom: .7rem; }
.bars caption { text-align: left; color: var(--muted); }
.bars th { text-align: left; font-weight: 400; padding: .1rem .6rem .1rem 0;
  overflow-wrap: anywhere; }
.bars td { text-align: right; width: 2.6rem; }
.bars .bar { width: 34%; padding-left: .5rem; }
.bar div { height: .6rem; border-radius: 1px; background: var(--edge); }
.bar div div { background: var(--accent); }
svg { display: block; width: 100%; height: auto; font-size: 12px; }
@media (max-width: 40rem) { .chart svg { min-width: 26rem; font-size: 13px; } }
.paper { background: #fff; border-radius: .3rem; }
svg text { font-family: inherit; } .mark { opacity: .55; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 0 2.5rem; margin: .5rem 0; font-size: .9rem; }
.facts div { display: flex; justify-content: space-between; gap: 1rem;
  border-bottom: 1px solid var(--edge); padding: .2rem 0; break-inside: avoid; }
.facts .typed dt { color: var(--text); font-weight: 600; }
.facts .typed dt::before { content: "▸ "; color: var(--accent); }
.metrics tbody th small { display: block; border: 0; max-width: 24rem; font-weight: 400;
  color: var(--muted);
  white-space: normal; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; text-align: right; }
.facts dt, .facts dd, .files, .path { overflow-wrap: anywhere; }
summary { cursor: pointer; } .files { padding-left: 1.1rem; } .files span { color: var(--muted); }
a { color: var(--accent); }
@media print { body { font-size: 13px; }
  .side { grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); } }
"""


def html_document(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `title` is escaped here, `body` is markup already.

    The content policy forbids every address but its own: opening it makes no request.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )
