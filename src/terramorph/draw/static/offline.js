// A service worker: the page's files are kept as they come, so that it opens without a network.
const KEPT = "terramorph-draw";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(request));
});

// Networks have a digest in their name and never change; of all else what is newest, where there is a network.
async function answer(request) {
  const kept = await caches.open(KEPT), own = await kept.match(request, { ignoreSearch: true });
  if (own && request.url.endsWith(".onnx.gz")) return own;
  try {
    const fresh = await fetch(request);
    if (fresh.status === 200) await kept.put(request, fresh.clone());
    return fresh;
  } catch (error) {
    if (own) return own;
    throw error;
  }
}
