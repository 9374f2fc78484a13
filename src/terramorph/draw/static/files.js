// Files of the page: beside it, or inside it where it is one file (see draw/onefile.py).
// {addresses: {name: address}, take: name -> Uint8Array, worker: name -> Worker}
const inside = globalThis.terramorphInside;

// Where a module lies.
export function addressOf(name) {
  return inside ? inside.addresses[name] : new URL(name, import.meta.url).href;
}

// A worker that runs a module.
export function startWorker(name) {
  return inside ? inside.worker(name) : new Worker(addressOf(name), { type: "module" });
}

// The bytes of a file, uncompressed. onProgress(bytes) is told how many more have come.
export async function readBytes(name, onProgress = () => {}) {
  let bytes;
  if (inside) {
    bytes = inside.take(name);
    onProgress(bytes.length);
  } else bytes = await fetched(new URL(name, import.meta.url), onProgress);
  // Some servers unpack what ends in .gz by themselves.
  return bytes[0] === 0x1f && bytes[1] === 0x8b ? unpacked(bytes) : bytes;
}

async function fetched(address, onProgress) {
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    throw new Error(`${address.pathname} could not be loaded; check the connection and try again.`);
  }
  if (!answer.ok) throw new Error(`${address.pathname} could not be loaded (${answer.status}); put all files of the page into one folder.`);
  const reader = answer.body.getReader(), parts = [];
  let length = 0;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch {
      throw new Error(`${address.pathname} broke off while it was loaded; try again.`);
    }
    if (step.done) break;
    parts.push(step.value);
    length += step.value.length;
    onProgress(step.value.length);
  }
  const bytes = new Uint8Array(length);
  let place = 0;
  for (const part of parts) {
    bytes.set(part, place);
    place += part.length;
  }
  return bytes;
}

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error("A file of the page is damaged; load the page again.");
  }
}
