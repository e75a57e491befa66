"""The server: models over HTTP by OpenAI's API, and a page to try them."""
