// In the page as one file: gives its modules addresses, and starts it.
{
  // Addresses of modules, each after those that it imports.
  const linked = (modules) => {
    const addresses = {};
    for (const [name, code] of Object.entries(modules)) {
      const text = code.replace(/((?:from|import)\s*\(?\s*)(["'])(\.\/[\w./-]+\.m?js)\2/g,
        (whole, before, quote, path) => (addresses[path] ? before + quote + addresses[path] + quote : whole));
      addresses[name] = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    }
    return addresses;
  };
  const text = (id) => document.getElementById(id).textContent, modules = text("modules");
  const addresses = linked(JSON.parse(modules));
  const take = (name) => {
    const coded = text(`file:${name}`);
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(coded);
    return Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
  };
  // From a disk, workers cannot be modules and import nothing but what they have addressed themselves.
  const worker = (name) => new Worker(URL.createObjectURL(new Blob([
    `globalThis.terramorphInside = { addresses: (${linked})(${modules}) };`,
    `import(terramorphInside.addresses["${name}"]).catch((error) => postMessage({ failed: String(error) }));`,
  ], { type: "text/javascript" })));
  globalThis.terramorphInside = { addresses, take, worker };
  import(addresses["./app.js"]);
}
