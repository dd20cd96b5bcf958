"""Images on their way into training: packed, indexed, ordered, decoded, loaded."""
