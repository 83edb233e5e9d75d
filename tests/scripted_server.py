"""A real HTTP server on this machine that says what a toy model says, and faults on demand.

It speaks the three dialects of ``teachers.server``. Each completion takes one entry off ``faults``:

    429, 500 …     that status              400         a refusal that repeats the key
    slow           ``delay`` seconds late    hang up     no answer
    cut body       half of the answer        cut json    half of it, declared as whole
    cut prompt     the last token is missing long prompt one too many
    other ids      speaks of another text    unsure ids  the same, without telling its ids
    no logprobs    null in their place       no number   NaN among them
    above zero     a positive one            as text     tokens as text (echo)
    short list     one likely token alone    right       no fault
"""

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from losses.alignment.tokens import Tokens


class ScriptedServer(ThreadingHTTPServer):
    """Started by ``with``; what it was asked stands in ``requests``."""

    def __init__(self, model: Any, name: str = "toy", key: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.name, self.key = model, name, key
        self.faults: deque[str] = deque()
        self.requests: list[dict[str, Any]] = []
        self.delay = 2.0
        self.pause = 0.0
        self.temperature = 1.0
        self.drift = 0.0
        self.max_model_len: int | None = None
        self.lists_models = True
        self.now = self.most = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client may have gone."""

    @torch.no_grad()
    def table(self, ids: list[int]) -> np.ndarray:
        """Log-probabilities; row ``i`` is of token ``i + 1``."""
        with self._lock:
            tokens = Tokens(np.array(ids), np.full(len(ids), -1))
            [hidden] = self.model.hidden_states([tokens])
            logits = self.model.head.logits(hidden) / self.temperature
            shift = self.drift * len(self.requests)
        return torch.log_softmax(logits, -1).numpy() - shift

    def begin(self, request: dict[str, Any]) -> str:
        with self._lock:
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
            return self.faults.popleft() if self.faults else "right"

    def end(self) -> None:
        with self._lock:
            self.now -= 1


class Handler(BaseHTTPRequestHandler):
    """One request, then the connection is closed."""

    server: ScriptedServer

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""

    def do_GET(self) -> None:
        if self.path != "/v1/models" or not self.server.lists_models:
            self.answer({"error": "no such page"}, 404)
            return
        length = self.server.max_model_len
        self.answer({"data": [{"id": self.server.name, "max_model_len": length}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.answer({"error": f"wrong key {self.headers['Authorization']}"}, 401)
            return
        fault = self.server.begin(request)
        try:
            time.sleep(self.server.pause)
            self.faulty(request, fault)
        finally:
            self.server.end()

    def faulty(self, request: dict[str, Any], fault: str) -> None:
        if fault.isdecimal():
            self.answer({"error": f"{self.headers['Authorization']} is at fault"}, int(fault))
        elif fault != "hang up":
            if fault == "slow":
                time.sleep(self.server.delay)
            content = json.dumps(self.completion(request, fault)).encode()
            half = content[: len(content) // 2]
            self.send(half if fault == "cut json" else content, cut=fault == "cut body")

    def completion(self, request: dict[str, Any], fault: str) -> dict[str, Any]:
        ids = request.get("prompt") or request["input_ids"]
        asked = list(ids)
        if fault in ("other ids", "unsure ids"):
            ids = ids[::-1]
        if fault == "long prompt":
            ids = [*ids, ids[-1]]
        rows = rows_of(self.server.table(ids), ids, request)
        if fault == "cut prompt":
            ids, rows = ids[:-1], rows[:-1]
        if fault in ("no number", "above zero"):
            rows[1][ids[1]] = float("nan") if fault == "no number" else 0.5
        if fault == "short list":
            rows = [row and dict(list(row.items())[:2]) for row in rows]
        build = vllm if "prompt_logprobs" in request else echo if "echo" in request else sglang
        return build(ids, rows, fault, asked)

    def answer(self, content: Any, status: int = 200) -> None:
        self.send(json.dumps(content).encode(), status)

    def send(self, content: bytes, status: int = 200, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)


def rows_of(
    table: np.ndarray, ids: list[int], request: dict[str, Any]
) -> list[dict[int, float] | None]:
    """Of each place the token itself, then the likeliest ones; nothing of the first place."""
    names = ("prompt_logprobs", "top_logprobs_num", "logprobs")
    k = next(request[name] for name in names if name in request)
    rows: list[dict[int, float] | None] = [None]
    for index, row in zip(ids[1:], table, strict=False):
        top = np.argsort(-row, kind="stable")[:k]
        rows.append({index: float(row[index])} | {int(i): float(row[i]) for i in top})
    return rows


def vllm(ids: list[int], rows: list[Any], fault: str, asked: list[int]) -> dict[str, Any]:
    entries = [
        row
        and {
            str(i): {"logprob": value, "rank": 1, "decoded_token": "?"} for i, value in row.items()
        }
        for row in rows
    ]
    read = None if fault == "unsure ids" else ids
    logprobs = None if fault == "no logprobs" else entries
    return {"choices": [{"text": "x", "prompt_logprobs": logprobs, "prompt_token_ids": read}]}


def sglang(ids: list[int], rows: list[Any], fault: str, asked: list[int]) -> dict[str, Any]:
    own = [[row and row[index], index, None] for index, row in zip(ids, rows, strict=True)]
    top = [row and [[value, i, None] for i, value in row.items()] for row in rows]
    meta = {"input_token_logprobs": own, "input_top_logprobs": top}
    return {"text": "x", "meta_info": {} if fault == "no logprobs" else meta}


def echo(ids: list[int], rows: list[Any], fault: str, asked: list[int]) -> dict[str, Any]:
    def shown(index: int) -> str:
        return "the" if fault == "as text" else f"token_id:{index}"

    logprobs = {
        "tokens": [shown(index) for index in ids],
        "token_logprobs": [row and row[index] for index, row in zip(ids, rows, strict=True)],
        "top_logprobs": [row and {shown(i): value for i, value in row.items()} for row in rows],
    }
    return {"choices": [{"text": "x", "logprobs": None if fault == "no logprobs" else logprobs}]}
