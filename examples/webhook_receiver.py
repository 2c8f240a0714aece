#!/usr/bin/env python3
"""webhook_receiver.py PORT SECRETS: prints what `ledgerctl bridge run --sink http://127.0.0.1:PORT/
--secret-file SECRETS` sends. Nothing is believed unsigned, nothing is done twice."""
import base64
import hmac
import http.server
import sys
import threading
import time

with open(sys.argv[2], encoding='utf-8') as secrets:  # one whsec_… a line; two while they change
    KEYS = [base64.b64decode(s.strip()[6:]) for s in secrets if s.strip().startswith('whsec_')]
done, lock = set(), threading.Lock()  # keep the ids where the work is kept, in one transaction


def is_signed(headers, body):
    moment, given = headers.get('webhook-timestamp', ''), headers.get('webhook-signature', '')
    if not moment.isdecimal() or abs(time.time() - int(moment)) > 300:
        return False  # somebody sends again what was recorded once
    text = f'{headers.get("webhook-id")}.{moment}.'.encode() + body
    right = ['v1,' + base64.b64encode(hmac.digest(k, text, 'sha256')).decode() for k in KEYS]
    return any(hmac.compare_digest(a.encode(), b.encode()) for a in given.split() for b in right)


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'  # connections are kept

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        signed = is_signed(self.headers, body)
        with lock:
            if signed and self.headers['webhook-id'] not in done:
                print(body.decode(), flush=True)  # the work; then only that it is done
                done.add(self.headers['webhook-id'])
        answer = b'' if signed else b'not signed by a secret of mine, or over five minutes ago'
        self.send_response(200 if signed else 401)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)  # the bridge shows it


http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Receiver).serve_forever()
