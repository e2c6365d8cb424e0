// Fine-tune from Node (18 or later) without a package:   node submit_with_fetch.mjs ROWS.jsonl MODEL
// First: eval "$(tunesmith env)".
import { readFile } from "node:fs/promises";
import { basename } from "node:path";

const [rows, model] = process.argv.slice(2);
const { OPENAI_BASE_URL: base, OPENAI_API_KEY: key } = process.env;

async function ask(path, options = {}) {
  const headers = { authorization: `Bearer ${key}`, ...options.headers };
  const response = await fetch(base + path, { ...options, headers });
  if (!response.ok && response.status !== 304) throw new Error(await response.text());
  return response;
}

const form = new FormData();
form.append("purpose", "fine-tune");
form.append("file", new Blob([await readFile(rows)]), basename(rows));
const file = await (await ask("/files", { method: "POST", body: form })).json();

const body = JSON.stringify({ model, training_file: file.id });
const headers = { "content-type": "application/json", "idempotency-key": file.id };
let job = await (await ask("/fine_tuning/jobs", { method: "POST", headers, body })).json();

// Each request waits for up to half a minute and is answered when the job changes.
let etag = '"none"';
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  const response = await ask(`/fine_tuning/jobs/${job.id}?wait=30`, { headers: { "if-none-match": etag } });
  etag = response.headers.get("etag");
  if (response.status === 200) job = await response.json();
}
console.log(job.status, job.fine_tuned_model);
process.exit(job.status === "succeeded" ? 0 : 1);
