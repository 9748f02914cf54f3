// The documented example of the queueing proxy (format 004) by Node's fetch, against llmproxy at $LLMPROXY_JOBS_URL with
// the key $LLMPROXY_JOBS_KEY; once as it stands (every request is a job), once with `Prefer: respond-async`.

const base = process.env.LLMPROXY_JOBS_URL;
const key = process.env.LLMPROXY_JOBS_KEY;

async function chatWithLLM(messages, headers = {}) {
  const submitResponse = await fetch(`${base}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'X-API-Key': key,
      ...headers,
    },
    body: JSON.stringify({
      model: 'gpt-3.5-turbo',
      messages,
      temperature: 0.7
    })
  });
  if (submitResponse.status !== 202) throw new Error(`status ${submitResponse.status}`);

  const { request_id } = await submitResponse.json();

  // Poll for completion
  while (true) {
    const statusResponse = await fetch(`${base}/v1/chat/completions/${request_id}`, {
      headers: {
        'X-API-Key': key
      }
    });
    const status = await statusResponse.json();

    if (status.status === 'completed') {
      return status.response;
    }

    if (status.status === 'error') {
      throw new Error(status.error?.message || 'Unknown error');
    }

    // Wait before next poll
    await new Promise(resolve => setTimeout(resolve, 1000));
  }
}

const conversation = [
  { role: 'system', content: 'You are a helpful assistant.' },
  { role: 'user', content: 'What is the capital of France?' }
];

let passed = 0;
let failed = 0;
for (const [name, headers] of [['as it stands', {}], ['with Prefer: respond-async', { Prefer: 'respond-async' }]]) {
  try {
    const response = await chatWithLLM(conversation, headers);
    if (typeof response.choices[0].message.content !== 'string') throw new Error(JSON.stringify(response));
    console.log(`ok    the documented example ${name}`);
    passed += 1;
  } catch (error) {
    console.log(`FAIL  the documented example ${name}\n${error.stack}`);
    failed += 1;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
