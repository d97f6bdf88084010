"""What several test modules share. pytest puts the folder above on the path."""
