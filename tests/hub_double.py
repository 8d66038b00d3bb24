"""A double of the Hub on the loopback interface, for the real huggingface_hub client.

It knows the routes that creating, pushing, listing and loading take. `HubDouble.fail` lets chosen requests fail first.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import huggingface_hub

TOKEN = "hf_dummyDUMMYdummyDUMMYdummyDUMMY42"

REPO = r"(?P<id>[^/]+/[^/]+)"


@dataclass
class Repo:
    """A repository: its commits, each the whole tree."""

    private: bool
    sizes: dict[str, int | None] = field(default_factory=dict)  # of files, where the double is to lie
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, message, files):
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append((sha, message, dict(files)))
        return sha

    def at(self, revision):
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    @property
    def files(self):
        return self.commits[-1][2]

    @property
    def messages(self):
        return [message for _, message, _ in self.commits[1:]]  # the first is the empty one of its making


@dataclass
class Fault:
    pattern: str
    kind: int | str
    times: int
    skip: int = 0


class HubDouble:
    """The double; `with HubDouble() as hub` starts and stops it.

    Attributes:
        repos: `Repo` by (`"models"` or `"datasets"`, name).
        log: `(method, path, status)` of every request; status "reset" where the connection was cut.
        organizations: Namespaces that the token may write to.
        lfs_suffixes: Files that go to large file storage.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int | str]] = []
        self.organizations = {"me"}
        self.lfs_suffixes: tuple[str, ...] = ()
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fail(self, pattern, kind, times=1, skip=0):
        """Let requests whose "METHOD path" matches `pattern` fail.

        `kind` is a status, "reset" to cut the connection at once, "lost" to do what is asked and then cut it, or
        "echo" for a 500 that repeats the token.
        """
        self.faults.append(Fault(pattern, kind, times, skip))

    def take_fault(self, request):
        with self.lock:
            for fault in self.faults:
                if re.search(fault.pattern, request) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault.kind
        return None

    def requests(self, pattern):
        """What the log has of the requests that match."""
        return [status for method, path, status in self.log if re.search(pattern, f"{method} {path}")]

    def stored_bytes(self):
        """Everything that was ever stored."""
        blobs = list(self.blobs.values())
        for repo in self.repos.values():
            for _, message, files in repo.commits:
                blobs += [message.encode(), *files.values()]
        return blobs


class _Handler(BaseHTTPRequestHandler):
    hub: HubDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _serve(self):
        self.route, _, self.query = self.path.partition("?")
        self.route = unquote(self.route)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.lost = False
        fault = self.hub.take_fault(f"{self.command} {self.route}")
        if fault == "reset":
            return self._cut()
        if fault == "echo":
            return self._send(500, {"error": f"no luck with {self.headers.get('Authorization')}"})
        if fault == "lost":
            self.lost = True
        elif fault is not None:
            message = {401: "Invalid credentials in Authorization header", 412: "A commit has happened since"}
            return self._send(fault, {"error": message.get(fault, "made to fail")})
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, self.route)
            if match and self.command in method.split():
                with self.hub.lock:
                    return answer(self, **match.groupdict())
        return self._send(404, {"error": f"the double knows no {self.command} {self.route}"})

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _cut(self):
        self.hub.log.append((self.command, self.route, "reset"))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, status, content=b"", **headers):
        if self.lost:
            return self._cut()
        self.hub.log.append((self.command, self.route, status))
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def _missing(self, code):
        return self._send(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _may_write(self, namespace):
        """Answer 401 or 403 where the request may not write."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials in Authorization header"})
        elif namespace not in self.hub.organizations:
            message = f"You don't have the rights to write to {namespace}"
            self._send(403, {"error": message}, X_Error_Message=message)
        else:
            return True
        return False

    def _repo(self, kind, id):
        """The repository, or None once 404 is answered, as the Hub does for private ones too."""
        repo = self.hub.repos.get((kind or "models", id))
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._missing("RepoNotFound")
            return None
        return repo

    def whoami(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        return self._send(200, {"name": "me", "type": "user", "orgs": [], "auth": {}})

    def create(self):
        asked = json.loads(self.body)
        kind = f"{asked.get('type') or 'model'}s"
        namespace = asked.get("organization") or "me"
        id = f"{namespace}/{asked['name']}"
        if not self._may_write(namespace):
            return None
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{id}"
        if (kind, id) in self.hub.repos:
            return self._send(409, {"error": "You already created this repo", "url": url})
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[kind, id] = Repo(is_private)
        self.hub.repos[kind, id].commit("initial commit", {})
        return self._send(200, {"url": url, "name": id, "id": id})

    def auth_check(self, kind, id):
        if self._repo(kind, id) is None or not self._may_write(id.split("/")[0]):
            return None
        return self._send(200, {})

    def validate_yaml(self):
        json.loads(self.body)
        return self._send(200, {"errors": [], "warnings": []})

    def preupload(self, kind, id, rev):
        repo = self._repo(kind, id)
        if repo is None or not self._may_write(id.split("/")[0]):
            return None
        answers = []
        for asked in json.loads(self.body)["files"]:
            is_lfs = asked["path"].endswith(self.hub.lfs_suffixes or ("\0",))
            answer = {"path": asked["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            if asked["path"] in repo.files:
                answer["oid"] = self._oid(asked["path"], repo.files[asked["path"]])
            answers.append(answer)
        return self._send(200, {"files": answers})

    def _oid(self, path, content):
        if path.endswith(self.hub.lfs_suffixes or ("\0",)):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def lfs_batch(self, kind, id):
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append(answer)
        return self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        return self._send(200)

    def commit(self, kind, id, rev):
        repo = self._repo(kind, id)
        if repo is None or not self._may_write(id.split("/")[0]):
            return None
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repo.commits[-1][0]):
            return self._send(412, {"error": "A commit has happened since"})
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "deletedFolder":
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
        sha = repo.commit(header["summary"], files)
        return self._send(200, {"commitOid": sha, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}"})

    def info(self, kind, id, rev="main"):
        repo = self._repo(kind, id)
        if repo is None:
            return None
        if (commit := repo.at(rev)) is None:
            return self._missing("RevisionNotFound")
        siblings = [
            {"rfilename": path, "size": repo.sizes.get(path, len(content))}
            for path, content in sorted(commit[2].items())
        ]
        described = {"id": id, "sha": commit[0], "private": repo.private, "siblings": siblings, "tags": []}
        return self._send(200, described | {"downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"})

    def tree(self, kind, id, rev, folder=None):
        repo = self._repo(kind, id)
        if repo is None:
            return None
        if (commit := repo.at(rev)) is None:
            return self._missing("RevisionNotFound")
        is_recursive = parse_qs(self.query).get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{folder.strip('/')}/" if folder else ""
        paths = [path for path in sorted(commit[2]) if path.startswith(prefix)]
        if prefix and not paths:
            return self._missing("EntryNotFound")
        rows, folders = [], set()
        for path in paths:
            parents = path[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(parents) + 1) if is_recursive else range(1, min(len(parents), 1) + 1):
                folders.add(prefix + "/".join(parents[:depth]))
            if is_recursive or not parents:
                content = commit[2][path]
                rows.append({"type": "file", "path": path, "oid": self._oid(path, content), "size": len(content)})
        rows += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        return self._send(200, rows)

    def paths_info(self, kind, id, rev):
        repo = self._repo(kind, id)
        if repo is None:
            return None
        asked = parse_qs(self.body.decode()) if self.body[:1] != b"{" else json.loads(self.body)
        rows = []
        for path in asked.get("paths", []):
            files = repo.at(rev)[2]
            if path in files:
                rows.append(
                    {"type": "file", "path": path, "oid": self._oid(path, files[path]), "size": len(files[path])}
                )
            elif any(name.startswith(f"{path}/") for name in files):
                rows.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return self._send(200, rows)

    def resolve(self, id, rev, path, kind=None):
        repo = self._repo(kind, id)
        if repo is None:
            return None
        if (commit := repo.at(rev)) is None:
            return self._missing("RevisionNotFound")
        if path not in commit[2]:
            return self._send(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit[0])
        content, headers = commit[2][path], {"X_Repo_Commit": commit[0], "Accept_Ranges": "bytes"}
        headers["ETag"] = f'"{self._oid(path, content)}"'
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content_Range"] = f"bytes {start}-{stop}/{len(content)}"
            return self._send(206, content[start : stop + 1], **headers)
        return self._send(200, content, **headers)


_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"/api/(?P<kind>models|datasets)/{REPO}/auth-check/write", _Handler.auth_check),
    ("POST", rf"/api/(?P<kind>models|datasets)/{REPO}/preupload/(?P<rev>[^/]+)", _Handler.preupload),
    ("POST", rf"/api/(?P<kind>models|datasets)/{REPO}/commit/(?P<rev>[^/]+)", _Handler.commit),
    ("POST", rf"/api/(?P<kind>models|datasets)/{REPO}/paths-info/(?P<rev>[^/]+)", _Handler.paths_info),
    ("GET", rf"/api/(?P<kind>models|datasets)/{REPO}/tree/(?P<rev>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", rf"/api/(?P<kind>models|datasets)/{REPO}(?:/revision/(?P<rev>[^/]+))", _Handler.info),
    ("GET", rf"/api/(?P<kind>models|datasets)/{REPO}", _Handler.info),
    ("POST", rf"/(?:(?P<kind>datasets)/)?{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    ("GET HEAD", rf"/(?:(?P<kind>datasets)/)?{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


@contextlib.contextmanager
def connected_hub(monkeypatch, tmp_path):
    """A double of the Hub that this process's client talks to, logged in."""
    with HubDouble() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        huggingface_hub.close_session()
