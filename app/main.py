"""The router: which pages there are, and the frame around them. `shardlab app` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # the server puts it there; a test that runs this file does not
    sys.path.insert(0, str(HERE))

import screens  # noqa: E402  (needs the line above)
import theme  # noqa: E402  (needs it too)

st.set_page_config(page_title="ShardLab", page_icon=theme.icon(), layout="wide")
theme.apply()
st.navigation(screens.navigation(), expanded=True).run()
