"""What a sweep found, in the formats of other tools."""
