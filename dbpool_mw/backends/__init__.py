"""ENGINEs that pool what they connect, with or without the middleware."""
