// What Node's `openai` package is asked to do: node cases.mjs BASE_URL KEY MODEL SUCCEEDED_JOB
import OpenAI, { toFile } from 'openai';

const [baseURL, apiKey, model, succeeded] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const jobs = client.fineTuning.jobs;
const line = JSON.stringify({ messages: [{ role: 'user', content: '1 + 1?' }, { role: 'assistant', content: '2' }] });
const rows = `${line}\n`.repeat(20);

const expect = (condition, what) => {
  if (!condition) throw new Error(what);
};
const upload = async () => (await client.files.create({ file: await toFile(Buffer.from(rows), 'rows.jsonl'), purpose: 'fine-tune' })).id;
const create = async (fields = {}) => {
  const job = await jobs.create({ model, training_file: await upload(), ...fields });
  await jobs.cancel(job.id);
  return job;
};
const refused = async (kind, call, code) => {
  try {
    await call();
  } catch (error) {
    expect(error instanceof kind, `not the class: ${error}`);
    expect(error.code === code, `code is ${error.code}, not ${code}`);
    return;
  }
  throw new Error('not refused');
};

const cases = {
  'files: upload': upload,
  'files: wait_for_processing': async () => expect((await client.files.waitForProcessing(await upload())).status === 'processed', 'not processed'),
  'files: content': async () => expect((await (await client.files.content(await upload())).text()) === rows, 'other bytes'),
  'files: retrieve, delete, 404': async () => {
    const file = await upload();
    expect((await client.files.delete(file)).deleted, 'not deleted');
    await refused(OpenAI.NotFoundError, () => client.files.retrieve(file), 'file_not_found');
  },
  'jobs: supervised': async () => expect((await create({ seed: 7, suffix: 'team' })).seed === 7, 'another seed'),
  'jobs: deprecated hyperparameters': async () => expect((await create({ hyperparameters: { n_epochs: 3 } })).hyperparameters.n_epochs === 3, 'not 3 epochs'),
  'jobs: integrations': async () => {
    const job = await create({ integrations: [{ type: 'wandb', wandb: { project: 'support' } }] });
    expect(job.integrations[0].wandb.project === 'support', 'not kept');
  },
  'jobs: metadata filter': async () => {
    const metadata = { team: await upload() };
    const made = (await create({ metadata })).id;
    const seen = [];
    for await (const job of jobs.list({ metadata })) seen.push(job.id);
    expect(seen.length === 1 && seen[0] === made, 'not found by its metadata');
  },
  'jobs: list, three pages': async () => {
    const made = [(await create()).id, (await create()).id, (await create()).id].reverse();
    const seen = [];
    for await (const job of jobs.list({ limit: 1 })) {
      seen.push(job.id);
      if (seen.length === made.length) break;
    }
    expect(JSON.stringify(seen) === JSON.stringify(made), 'not newest first over pages');
  },
  'jobs: cancel': create,
  'jobs: retrieve a result': async () => expect((await jobs.retrieve(succeeded)).status === 'succeeded', 'no result'),
  'jobs: cancel too late is 400': () => refused(OpenAI.BadRequestError, () => jobs.cancel(succeeded), 'invalid_state'),
  'jobs: events in pages': async () => {
    const seen = new Set();
    for await (const event of jobs.listEvents(succeeded, { limit: 2 })) seen.add(event.id);
    expect(seen.size > 4, 'too few events');
  },
  'jobs: checkpoints': async () => expect((await jobs.checkpoints.list(succeeded)).data[0].fine_tuned_model_checkpoint.includes(':ckpt-step-'), 'no name'),
  'models: list, retrieve': async () => {
    const tuned = (await jobs.retrieve(succeeded)).fine_tuned_model;
    expect((await client.models.retrieve(tuned)).id === tuned, 'another model');
  },
  'errors: 400 with code and field': () => refused(OpenAI.BadRequestError, () => jobs.create({ model: 'gpt-5', training_file: 'file-1' }), 'model_not_found'),
  'errors: 401': () => refused(OpenAI.AuthenticationError, () => new OpenAI({ baseURL, apiKey: 'nobody', maxRetries: 0 }).models.list(), 'invalid_api_key'),
  'errors: 404': () => refused(OpenAI.NotFoundError, () => jobs.retrieve('ftjob-none'), 'fine_tuning_job_not_found'),
};

const outcomes = {};
for (const [name, play] of Object.entries(cases)) {
  try {
    await play();
    outcomes[name] = 'ok';
  } catch (error) {
    outcomes[name] = `${error.constructor.name}: ${String(error.message).slice(0, 200)}`;
  }
}
console.log(JSON.stringify(outcomes));
