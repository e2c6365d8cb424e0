"""Fine-tune with the unmodified `openai` client. First, in a shell: eval "$(tunesmith env)"."""

import time

from openai import OpenAI

client = OpenAI()
training_file = client.files.create(file=open("examples/support.jsonl", "rb"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(model="my-base", training_file=training_file.id, suffix="support")
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
print(job.status, job.fine_tuned_model, job.error)
answer = client.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "Hello?"}])
print(answer.choices[0].message.content)
