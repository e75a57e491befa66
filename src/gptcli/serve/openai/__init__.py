"""OpenAI's forms of requests and answers: schemas, errors, routes, server-sent events, and the document of them."""
