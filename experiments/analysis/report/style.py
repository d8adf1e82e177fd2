"""The look of the page: one column, light and dark, nothing loaded from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5a6675; --page: #fff; --card: #f5f7fa;
  --rule: #d9dfe7; --a: #7a8798; --b: #2464c0; --good: #1a7a45; --bad: #b92c2c; --open: #5a6f8c;
  --warn: #8a6200; --good-bg: #e7f5ec; --bad-bg: #fbeaea; --open-bg: #eef2f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5eaf1; --soft: #9ba8b8; --page: #12171d;
  --card: #1b2129; --rule: #333d49; --a: #8d9aab; --b: #6ea8ff; --good: #5fce8f; --bad: #f58080;
  --open: #93a8c6; --warn: #e5bd58; --good-bg: #14301f; --bad-bg: #3a1b1e; --open-bg: #1e2733; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: var(--page); max-width: 68rem; margin: 0 auto; padding: 1.6rem 1.2rem 4rem; }
h1 { font-size: 1.55rem; margin: 0; } h2 { font-size: 1.12rem; margin: 2.4rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.facts, p.note, .soft { color: var(--soft); } p.facts { margin: .2rem 0 1.2rem; }
p.note { margin: .4rem 0 0; max-width: 52rem; font-size: .9rem; }
.verdict { border: 1px solid var(--rule); border-left: 6px solid var(--open); border-radius: 6px;
  background: var(--open-bg); padding: 1rem 1.2rem; margin: 1rem 0; }
.verdict.good { border-left-color: var(--good); background: var(--good-bg); }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-bg); }
.verdict .word { font-size: 1.45rem; font-weight: 650; }
.verdict .code { font-family: ui-monospace, monospace; font-size: .85rem; color: var(--soft);
  margin-left: .6rem; }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; }
.verdict li { margin: .15rem 0; } .verdict b { font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: .7rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 0 2rem; }
.card { background: var(--card); border-radius: 6px; padding: .6rem .8rem; }
.card .name { color: var(--soft); font-size: .85rem; } .card .value { font-size: 1.15rem; }
.card .value, td { font-variant-numeric: tabular-nums; }
.card.good .value { color: var(--good); } .card.bad .value { color: var(--bad); font-weight: 650; }
.card.warn .value { color: var(--warn); }
.card .more { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin-top: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem .9rem .38rem 0;
  border-bottom: 1px solid var(--rule); } th { color: var(--soft); font-weight: 600;
  font-size: .85rem; white-space: nowrap; }
td.num, th.num { text-align: right; white-space: nowrap; }
td.wide { overflow-wrap: anywhere; } td.line-up { white-space: nowrap; }
tr.minor td { color: var(--soft); }
.tag { display: inline-block; border-radius: 3px; padding: 0 .4rem; font-size: .78rem;
  background: var(--open-bg); color: var(--open); }
.good-text { color: var(--good); } .bad-text { color: var(--bad); font-weight: 600; }
.open-text { color: var(--soft); } .warn-text { color: var(--warn); }
svg { display: block; height: auto; width: 100%; } td svg { width: 190px; margin-right: .6rem; }
svg text { fill: var(--ink); font-size: 12.5px; }
svg text.tick { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--rule); } .zero { stroke: var(--soft); stroke-dasharray: 3 3; }
.margin { stroke: var(--bad); stroke-width: 1.5; }
.band { fill-opacity: .35; } .band.good, .dot.good { fill: var(--good); }
.band.bad, .dot.bad { fill: var(--bad); } .band.open, .dot.open { fill: var(--open); }
.band.open { fill-opacity: .28; } .line { fill: none; stroke: var(--b); stroke-width: 2; }
.point { fill: var(--b); } .arm-a { fill: var(--a); } .arm-b { fill: var(--b); }
.said { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.said article { background: var(--card); border-radius: 6px; padding: .6rem .9rem;
  margin: 0 0 .7rem; }
.said p { margin: .2rem 0; overflow-wrap: anywhere; } .said .who { color: var(--soft);
  font-size: .82rem; }
code { font-family: ui-monospace, monospace; font-size: .85em; overflow-wrap: anywhere; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--soft); }
@media print { body { max-width: none; } details { display: none; } }
"""
