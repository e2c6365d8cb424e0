"""Receive webhooks and check their signatures:   OPENAI_WEBHOOK_SECRET=whsec_... webhook_receiver.py PORT

The secret is the one that `tunesmith webhooks create URL` prints, once.
"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from openai import InvalidWebhookSignatureError, OpenAI

client = OpenAI(api_key="not needed to receive")
seen = set()  # a real receiver keeps these: an event may come twice, under the same id


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = client.webhooks.unwrap(body, self.headers)
        except InvalidWebhookSignatureError:
            self.send_error(400)
            return
        self.send_response(204)
        self.end_headers()
        if event.id not in seen:
            seen.add(event.id)
            print(event.type, event.data.id, flush=True)


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
