"""Events of the Responses API, as OpenAI sends them."""

from typing import Any


def response(status: str, **more: Any) -> dict[str, Any]:
    """An event about a whole response, with the fields that the SDK asks for."""
    whole = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "output": []}
    whole |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": status}
    return {"type": f"response.{status}", "sequence_number": 0, "response": whole | more}


PLACE = {"item_id": "i1", "output_index": 0, "content_index": 0, "sequence_number": 1}
ITEM = {"id": "i1", "type": "message", "role": "assistant"}
PART = {"type": "output_text", "annotations": []}


def delta(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "delta": text, "logprobs": [], **PLACE}


def item(status: str, *content: dict[str, Any]) -> dict[str, Any]:
    kind = "added" if status == "in_progress" else "done"
    whole = {**ITEM, "status": status, "content": list(content)}
    place = {"output_index": 0, "sequence_number": 0}
    return {"type": f"response.output_item.{kind}", "item": whole, **place}


BEGUN: list[dict[str, Any]] = [
    response("created"),
    item("in_progress"),
    {"type": "response.content_part.added", "part": {**PART, "text": ""}, **PLACE},
]


def answer(*words: str) -> list[dict[str, Any]]:
    """All events of an answer, as the API sends them."""
    part = {**PART, "text": "".join(words)}
    return [
        *BEGUN,
        *map(delta, words),
        {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **PLACE},
        {"type": "response.content_part.done", "part": part, **PLACE},
        item("completed", part),
        response("completed", output=[{**ITEM, "status": "completed", "content": [part]}]),
    ]
