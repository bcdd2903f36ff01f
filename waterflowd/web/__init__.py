"""The web pages: their sources (`src`, TypeScript), their committed build (`static`), and what serves it."""
