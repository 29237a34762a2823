"""Sources of classifiers: shipped files, libraries and hubs, a user's own files."""
