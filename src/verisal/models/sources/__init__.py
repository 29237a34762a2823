"""Where classifiers come from: shipped files, libraries and hubs, files of one's own."""
