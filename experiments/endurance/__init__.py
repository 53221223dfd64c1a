"""What damaged files and killed commands come to."""
