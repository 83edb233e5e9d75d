"""Arms over paired seeds at equal steps, and what the differences between them say."""
