"""What the screens are drawn with; besides `pages/` the only code that knows Streamlit."""
