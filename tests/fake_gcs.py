"""Plays Google Cloud Storage on this machine, for TensorFlow's gs:// file system.

TensorFlow has Google's addresses built in. It honours the variables of an HTTPS proxy and of a
CA bundle, though, so this is such a proxy, which answers for Google itself.
"""

import datetime
import http.server
import json
import ssl
import threading
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


def start(folder, objects):
    """Serves `objects`, a dict from bucket/name to bytes.

    Returns:
      The server, and the environment variables that lead TensorFlow to it.
    """
    bundle = folder / "ca.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bundle.write_bytes(_certificate())
    context.load_cert_chain(bundle)
    handler = type("Handler", (_Handler,), {"context": context, "objects": objects})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = {
        "https_proxy": f"http://127.0.0.1:{server.server_port}",
        "CURL_CA_BUNDLE": str(bundle),
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
    }
    return server, told


def _certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake Google")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in HOSTS]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    kind = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(encoding, kind, serialization.NoEncryption())
    return private + made.public_bytes(encoding)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self):
        super().finish()
        self.connection.close()  # the one that TLS was put around

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        path = urllib.parse.unquote(url.path)
        if not path.startswith("/storage/v1/b/"):
            self._content(path.lstrip("/"))
            return
        bucket, _, name = path.removeprefix("/storage/v1/b/").partition("/o")
        if not name:  # a list, or the bucket itself
            self._list(bucket, asked.get("prefix", ""), asked.get("delimiter"))
        elif (key := bucket + name) in self.objects:
            known = {"generation": "1", "updated": "2026-01-01T00:00:00.000Z"}
            known["size"] = str(len(self.objects[key]))
            self._answer(200, json.dumps(known).encode())
        else:
            self._answer(404, b"{}")

    def _list(self, bucket, prefix, delimiter):
        start = f"{bucket}/{prefix}"
        found = [key.removeprefix(start) for key in sorted(self.objects) if key.startswith(start)]
        if delimiter:
            folders = sorted({n.split("/")[0] + "/" for n in found if "/" in n})
            found = [n for n in found if "/" not in n]
        listed = {"items": [{"name": prefix + n} for n in found]}
        if delimiter:
            listed["prefixes"] = [prefix + n for n in folders]
        self._answer(200, json.dumps(listed).encode())

    def _content(self, key):
        if key not in self.objects:
            self._answer(404, b"{}")
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        body = self.objects[key][int(first) :][: int(last) - int(first) + 1 if last else None]
        self._answer(206 if body else 416, body)

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
