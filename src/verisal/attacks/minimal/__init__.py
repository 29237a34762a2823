"""Attacks with the smallest noise that changes the class."""
