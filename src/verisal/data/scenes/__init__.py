"""EmojiScenes: rendered images with exact object masks."""
