"""Chat templates that place messages without ever interpreting them."""

from serve_app.engines.chat_template.template import ChatTemplate, Segment

__all__ = ["ChatTemplate", "Segment"]
