"""Figures: plain data in, a Plotly figure out. No file is read and no widget drawn here, so screens, reports and notebooks share
them. Each figure carries its own description for screen readers in `layout.meta["alt"]`."""
