"""The nodes that store and fetch artifacts: `upload.py`, `download.py`."""
