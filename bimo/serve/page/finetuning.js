/* The tab for fine-tuning: photos are read and made smaller here, sent with the form to a route of the page's own, and
   the runs are looked at while one is under way. */
() => {
  const path = "/page/finetunings", every = 2000;
  const one = (selector) => document.querySelector(selector);
  const form = () => one("#finetune-form");
  let photos = [], looking = false;

  /* Of many photos each is smaller, so that all fit into one request. */
  const side = () => (photos.length > 20 ? 768 : 1024);
  const packed = (photo) => {
    const scale = Math.min(1, side() / Math.max(photo.image.naturalWidth, photo.image.naturalHeight));
    const made = document.createElement("canvas");
    made.width = Math.max(1, Math.round(photo.image.naturalWidth * scale));
    made.height = Math.max(1, Math.round(photo.image.naturalHeight * scale));
    const pen = made.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(photo.image, 0, 0, made.width, made.height);
    return { data: made.toDataURL("image/jpeg", 0.92), name: photo.name.slice(0, 200), caption: photo.field.value.trim() };
  };
  const says = (text) => {
    const alert = form().querySelector("[role=alert]");
    alert.textContent = text;
    alert.hidden = !text;
  };
  const counted = () => {
    form().querySelector("[data-photos-clear]").hidden = !photos.length;
  };
  const removed = (photo) => {
    photos = photos.filter((other) => other !== photo);
    URL.revokeObjectURL(photo.image.src);
    photo.card.remove();
    counted();
  };
  const added = async (files) => {
    const texts = form().dataset;
    says("");
    for (const file of files) {
      if (photos.length >= Number(texts.most)) return says(texts.many);
      const image = new Image();
      image.src = URL.createObjectURL(file);
      try {
        await image.decode();
      } catch {
        says(`${file.name}: ${texts.unreadable}`);
        continue;
      }
      image.alt = file.name;
      const card = document.createElement("div");
      const field = Object.assign(document.createElement("input"), { maxLength: 200, placeholder: texts.caption });
      field.setAttribute("aria-label", `${texts.caption}: ${file.name}`);
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
      button.setAttribute("aria-label", `${texts.remove}: ${file.name}`);
      const photo = { image, name: file.name, field, card };
      button.addEventListener("click", () => removed(photo));
      card.append(image, button, field);
      form().querySelector(".photos").append(card);
      photos.push(photo);
      counted();
    }
  };

  /* What the server answers is the list of runs, or an error in a sentence. */
  const shown = async (answer) => {
    if (!answer.ok) {
      const body = await answer.json().catch(() => ({}));
      throw new Error(body.error || answer.statusText);
    }
    const html = await answer.text(), list = one("#finetune-runs");
    if (!list || list.dataset.html === html) return;
    const opened = new Set([...list.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset : {};
    list.innerHTML = list.dataset.html = html;
    for (const each of list.querySelectorAll("details")) each.open = opened.has(each.dataset.key);
    if (focused.action) list.querySelector(`[data-run="${focused.run}"][data-action="${focused.action}"]`)?.focus();
  };
  const look = async () => {
    /* gradio may have built the tab anew. */
    for (const photo of photos) if (!photo.card.isConnected) form()?.querySelector(".photos").append(photo.card);
    const list = one("#finetune-runs");
    const isWanted = list && (!list.dataset.html || list.querySelector("[data-state=running]"));
    if (!isWanted || looking || document.hidden) return;
    looking = true;
    try {
      await shown(await fetch(path));
    } catch { /* the server is away: the next look may find it */
    } finally {
      looking = false;
    }
  };
  setInterval(look, every);

  document.addEventListener("submit", async (event) => {
    if (event.target !== form()) return;
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(form()));
    if (!photos.length) return says(form().dataset.none);
    const go = form().querySelector(".go"), title = go.textContent;
    const { model, name, word, subject } = fields;
    says("");
    go.disabled = true;
    go.textContent = form().dataset.sending;
    try {
      const body = { model, name, word, subject, steps: Math.round(Number(fields.steps) || 0), photos: photos.map(packed) };
      const headers = { "Content-Type": "application/json" };
      await shown(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }));
      [...photos].forEach(removed);
      one("#finetune-runs").scrollIntoView({ block: "nearest" });
    } catch (error) {
      says(error.message);
    } finally {
      go.disabled = false;
      go.textContent = title;
    }
  });
  document.addEventListener("click", async (event) => {
    if (event.target.closest?.("[data-photos-clear]")) return [...photos].forEach(removed);
    const button = event.target.closest?.("[data-run]");
    if (!button) return;
    const { run, action, sure } = button.dataset;
    if (action === "draw") {
      const field = one("#finetuned textarea, #finetuned input");
      const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
      Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, `${run} ${Date.now()}`);
      field.dispatchEvent(new Event("input", { bubbles: true }));
      one("button[role=tab]")?.click();
      scrollTo({ top: 0 }); /* to the prompt, which has been filled in */
      return;
    }
    if (sure && !confirm(sure)) return;
    button.disabled = true;
    try {
      await shown(await fetch(`${path}/${run}/${action}`, { method: "POST" }));
    } catch (error) {
      says(error.message);
      button.disabled = false;
    }
  });
  document.addEventListener("change", async (event) => {
    if (!event.target.matches?.("[data-photos]")) return;
    const files = [...event.target.files];
    event.target.value = "";
    await added(files);
  });
  document.addEventListener("drop", async (event) => {
    if (!event.target.closest?.("#finetuning") || !event.dataTransfer?.files?.length) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    await added([...event.dataTransfer.files]);
  });
}
