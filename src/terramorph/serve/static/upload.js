// A GeoTIFF of one's own: dropped on the page or chosen, sent, and shown as a layer.
const $ = (id) => document.getElementById(id);

// most: MB that one may hold; layer: gives the name of the layer that is shown; opened: told the names of the new layer
// and of the file.
export function takeUploads(most, layer, opened) {
  const button = $("upload-choose"), file = $("upload-file"), bar = $("upload-bar");
  let sending = null, within = 0;
  $("upload").hidden = false;
  $("upload-most").textContent = `Up to ${most} MB.`;
  const say = (text) => { $("upload-said").textContent = text; };
  const show = () => { button.hidden = Boolean(sending); $("upload-going").hidden = !sending; };

  function send(chosen) {
    if (sending) { say("One is being sent; cancel it first."); return; }
    if (chosen.size > 1e6 * most) {
      say(`${chosen.name} has ${Math.ceil(chosen.size / 1e6)} MB, over the limit of ${most} MB; cut it into smaller pieces.`);
      return;
    }
    const request = sending = new XMLHttpRequest();
    const over = (text) => { sending = null; bar.value = 0; show(); say(text); };
    request.upload.onprogress = ({ loaded, total }) => {
      bar.value = loaded / total;
      say(loaded < total ? `${Math.floor(100 * loaded / total)} % sent` : "Opening …");
    };
    request.onload = async () => {
      if (request.status !== 201) { over(request.responseText || `The server refused it (${request.status}).`); return; }
      over("");
      try { await opened(JSON.parse(request.responseText).layer, chosen.name); } catch (error) { say(error.message); }
    };
    request.onerror = () => over("It could not be sent: the server closed the connection or does not answer.");
    request.onabort = () => over("Cancelled.");
    request.open("PUT", `uploads?${new URLSearchParams({ layer: layer() })}`);
    request.setRequestHeader("X-Terramorph", "upload");
    say("0 % sent");
    show();
    request.send(chosen);
  }

  button.onclick = () => file.click();
  file.onchange = () => { if (file.files.length) send(file.files[0]); file.value = ""; };
  $("upload-cancel").onclick = () => sending?.abort();
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  const hint = (seen) => { $("drop").hidden = !seen; };
  addEventListener("dragenter", (event) => { if (carries(event)) { within++; hint(true); } });
  addEventListener("dragleave", (event) => { if (carries(event)) { within = Math.max(0, within - 1); hint(within > 0); } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    within = 0; hint(false);
    if ($("panel").classList.contains("folded")) $("fold").click();
    $("upload").scrollIntoView({ block: "nearest" });
    if (event.dataTransfer.files.length === 1) send(event.dataTransfer.files[0]);
    else say("Drop one file at a time.");
  });
}
