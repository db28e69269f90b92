"""The look of the pages beyond what .streamlit/config.toml says: spacing, the badge, big numbers.

Colours of traces are not here: parallel_core/views/palette.py owns them. What stands here uses
the theme's own colours only (`currentColor`), so that light and dark need no second sheet.
"""

from __future__ import annotations

import html

import streamlit as st

from parallel_core import places
from parallel_core.trace import Kind

CSS = """
.stMainBlockContainer { max-width: 76rem; padding-top: 3.2rem; padding-bottom: 5rem; }
.stMainBlockContainer p, .stMainBlockContainer li { line-height: 1.55; }
.stMainBlockContainer .stMarkdown p, .stMainBlockContainer .stMarkdown li { max-width: 46rem; }
.stApp [data-testid="stCaptionContainer"] { color: inherit; opacity: 0.8; }
.lead { font-size: 1.08rem; line-height: 1.5; max-width: 46rem; margin: -0.6rem 0 0.4rem; }
.badge { display: inline-block; font-size: 0.8rem; line-height: 1.35; padding: 0.12rem 0.5rem;
         border-radius: 0.3rem; overflow-wrap: anywhere;
         background: color-mix(in srgb, currentColor 10%, transparent); }
.badge b { font-weight: 650; }
.badge.replayed { border: 1px solid currentColor; }
.badge.modelled { border: 1.5px dashed currentColor; background: none; }
.badge.quoted { border: 1.5px dotted currentColor;
                background: color-mix(in srgb, currentColor 18%, transparent); }
.verdict { font-size: clamp(1.25rem, 4.2vw, 2.3rem); font-weight: 600; margin: 0.2rem 0;
           font-variant-numeric: tabular-nums; overflow-wrap: anywhere; line-height: 1.2; }
.verdict small { display: block; font-size: 0.95rem; font-weight: 400; line-height: 1.45;
                 max-width: 46rem; margin-top: 0.25rem; }
.stCheckbox [data-testid="stMarkdownContainer"], .stCheckbox [data-testid="stMarkdownContainer"] p {
  white-space: normal; }
[data-testid="stMetricValue"] { font-variant-numeric: tabular-nums; }
button[data-testid="stBaseButton-primary"]:enabled { color: light-dark(#FFFFFF, #11161B); }
@media (max-width: 640px) {
  .stMainBlockContainer { padding-left: 1rem; padding-right: 1rem; }
}
@media (prefers-reduced-motion: reduce) { * { scroll-behavior: auto !important; } }
"""


def apply() -> None:
    """Add the sheet to the page."""
    st.html(f"<style>{CSS}</style>")


def icon() -> str:
    """The page's icon: a file of ours, so that no emoji is fetched from elsewhere."""
    return str(places.assets() / "icon.svg")


def badge(kind: Kind, text: str) -> None:
    """Where a figure comes from, drawn by its kind: then the words."""
    first, _, rest = text.partition(":")
    words = f"<b>{html.escape(first)}</b>" + (f":{html.escape(rest)}" if rest else "")
    st.html(f'<span class="badge {kind.value}">{words}</span>')


def lead(text: str) -> None:
    """The one sentence under a page's title."""
    st.html(f'<p class="lead">{html.escape(text)}</p>')


def verdict(figure: str, meaning: str) -> None:
    """One number, big, and what it means."""
    st.html(f'<p class="verdict">{html.escape(figure)}<small>{html.escape(meaning)}</small></p>')
