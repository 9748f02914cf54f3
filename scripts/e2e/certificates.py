"""An endpoint whose certificate nobody vouches for is not asked (W002-9): scripts/e2e/certificates.py BINARY."""

import http.client
import http.server
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        reached.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


reached = []
with tempfile.TemporaryDirectory() as work:
    key, certificate = os.path.join(work, "key.pem"), os.path.join(work, "certificate.pem")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    config = os.path.join(work, "config.yml")
    with open(config, "w") as file:
        url = f"https://localhost:{server.server_port}/v1"
        file.write(f"endpoints: [{{name: a, url: '{url}', apiKey: canary, models: [m], healthCheck: false}}]\n")
    proxy = subprocess.Popen(
        [sys.argv[1], "-c", config, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    port = int(re.search(r":(\d+)$", proxy.stdout.readline().strip()).group(1))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/v1/chat/completions", '{"model":"m"}', {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    proxy.terminate()
    log = proxy.communicate(timeout=30)[1]
    good = answer.status == 502 and not reached and "certificate" in log.lower() and "canary" not in text + log
    print(f"{'ok   ' if good else 'FAIL '} a certificate that nobody vouches for is a 502, and the key stays here")
    if not good:
        print(answer.status, text, reached, log, sep="\n")
print(f"{int(good)} passed, {int(not good)} failed")
sys.exit(not good)
