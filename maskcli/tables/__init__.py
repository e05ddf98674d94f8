"""Tables of training rows: files, folders and Python iterables as chunks of ragged columns."""
