"""Cases, toys, generators of files and workers that tests share."""
