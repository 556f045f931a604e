/* What the page does in the browser besides gradio: pictures that are picked, the canvas, files that are read here.
   Nothing is uploaded: pictures go along with the form, in base64. */
() => {
  const most = 1024;
  const one = (selector) => document.querySelector(selector);
  const write = (id, value) => {
    const field = one(`#${id} textarea, #${id} input`);
    if (!field) return;
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const read = (file) => new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
  const opened = (url) => new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = failed;
    image.src = url;
  });

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("[data-pick], [data-example], [data-word], [data-tool]");
    if (!target) return;
    const { pick, example, word, tool } = target.dataset;
    if (pick) {
      write("pick", `${pick} ${Date.now()}`);
      if (target.closest(".grid, .duel")) one("button[role=tab]")?.click();
      if (!target.closest("#stage")) one("#stage")?.scrollIntoView({ block: "center" });
    }
    if (example) write("example", `${example} ${Date.now()}`);
    if (word) {
      const field = one("#prompt textarea");
      const gap = /[\u3400-\u9fff]$/.test(field.value) || !field.value ? "" : " ";
      write("prompt", field.value + gap + word);
    }
    if (tool) canvas.tools[tool]?.();
  });

  /* The canvas: an image, what is sketched onto it, and a mask over it (white: to be painted). */
  const canvas = {
    base: null, strokes: [], drawing: null,
    get shown() { return one("#canvas canvas"); },
    size() { return this.base ? [this.base.width, this.base.height] : [0, 0]; },
    layer() {
      const [width, height] = this.size();
      return Object.assign(document.createElement("canvas"), { width, height });
    },
    load(image) {
      const scale = Math.min(1, most / Math.max(image.width, image.height));
      const base = document.createElement("canvas");
      base.width = Math.max(1, Math.round(image.width * scale));
      base.height = Math.max(1, Math.round(image.height * scale));
      const pen = base.getContext("2d");
      pen.fillStyle = "white";
      pen.fillRect(0, 0, base.width, base.height);
      pen.drawImage(image, 0, 0, base.width, base.height);
      this.base = base;
      this.strokes = [];
      this.changed();
    },
    paint(kind, colour) {
      const made = this.layer();
      const pen = made.getContext("2d");
      pen.lineCap = pen.lineJoin = "round";
      for (const stroke of this.strokes.filter((each) => each.kind === kind)) {
        pen.strokeStyle = colour || stroke.colour;
        pen.lineWidth = stroke.width;
        pen.beginPath();
        stroke.points.forEach(([x, y], place) => (place ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        if (stroke.points.length === 1) pen.lineTo(stroke.points[0][0] + 0.1, stroke.points[0][1]);
        pen.stroke();
      }
      return made;
    },
    render() {
      const shown = this.shown;
      if (!shown) return;
      one("#canvas").classList.toggle("filled", !!this.base);
      if (!this.base) return;
      [shown.width, shown.height] = this.size();
      const pen = shown.getContext("2d");
      pen.drawImage(this.base, 0, 0);
      pen.drawImage(this.paint("sketch"), 0, 0);
      pen.globalAlpha = 0.55;
      pen.drawImage(this.paint("mask", "#2456d6"), 0, 0); // blue: most of what is drawn is warmer
      pen.globalAlpha = 1;
    },
    changed() {
      this.render();
      if (!this.base) {
        write("image-data", "");
        write("mask-data", "");
        return;
      }
      const image = this.layer();
      const pen = image.getContext("2d");
      pen.drawImage(this.base, 0, 0);
      pen.drawImage(this.paint("sketch"), 0, 0);
      write("image-data", image.toDataURL("image/png"));
      if (!this.strokes.some((each) => each.kind === "mask")) {
        write("mask-data", "");
        return;
      }
      const mask = this.layer();
      const over = mask.getContext("2d");
      over.fillStyle = "black";
      over.fillRect(0, 0, mask.width, mask.height);
      over.drawImage(this.paint("mask", "white"), 0, 0);
      write("mask-data", mask.toDataURL("image/png"));
    },
    tools: {
      undo() { canvas.strokes.pop(); canvas.changed(); },
      clear() { canvas.strokes = []; canvas.changed(); },
      remove() { canvas.base = null; canvas.strokes = []; canvas.changed(); },
      blank() {
        const side = (id) => Number(one(`#${id} input[type=number]`)?.value) || 512;
        const sheet = document.createElement("canvas");
        const scale = Math.max(1, Math.ceil(256 / Math.max(side("width"), side("height"))));
        [sheet.width, sheet.height] = [side("width") * scale, side("height") * scale];
        const pen = sheet.getContext("2d");
        pen.fillStyle = "white";
        pen.fillRect(0, 0, sheet.width, sheet.height);
        canvas.load(sheet);
      },
    },
  };
  const place = (event) => {
    const box = canvas.shown.getBoundingClientRect();
    const [width, height] = canvas.size();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  document.addEventListener("pointerdown", (event) => {
    if (!canvas.base || event.target !== canvas.shown) return;
    event.preventDefault();
    canvas.shown.setPointerCapture(event.pointerId);
    const width = (Number(one("#canvas [name=brush]").value) / 100) * Math.max(...canvas.size());
    const kind = one("#canvas [name=kind]:checked").value;
    canvas.drawing = { kind, width, colour: one("#canvas [name=colour]").value, points: [place(event)] };
    canvas.strokes.push(canvas.drawing);
    canvas.render();
  });
  document.addEventListener("pointermove", (event) => {
    if (!canvas.drawing) return;
    canvas.drawing.points.push(place(event));
    canvas.render();
  });
  for (const end of ["pointerup", "pointercancel"])
    document.addEventListener(end, () => {
      if (!canvas.drawing) return;
      canvas.drawing = null;
      canvas.changed();
    });

  /* Files: an image for the canvas, a control picture, a PNG whose settings are wanted, a table. */
  const bounded = async (file) => {
    const image = await opened(URL.createObjectURL(file));
    const scale = Math.min(1, most / Math.max(image.width, image.height));
    const made = document.createElement("canvas");
    [made.width, made.height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
    made.getContext("2d").drawImage(image, 0, 0, made.width, made.height);
    return made.toDataURL("image/png");
  };
  const record = async (file) => {
    if (file.size > 12e6) return write("dropped", "too large " + Date.now());
    write("dropped", `${await read(file)} ${Date.now()}`);
  };
  document.addEventListener("change", async (event) => {
    const file = event.target.files?.[0];
    const kind = event.target.dataset?.file;
    if (!file || !kind) return;
    event.target.value = "";
    try {
      if (kind === "image") canvas.load(await opened(URL.createObjectURL(file)));
      if (kind === "control") write("control-data", await bounded(file));
      if (kind === "record") await record(file);
      if (kind === "table") write("table", (await file.text()).slice(0, 100000));
    } catch {
      write("dropped", "unreadable " + Date.now());
    }
  });
  document.addEventListener("dragover", (event) => {
    if (![...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", async (event) => {
    const file = event.dataTransfer?.files?.[0];
    if (!file || event.target.closest?.("#finetuning")) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    try {
      if (event.target.closest?.("#canvas")) canvas.load(await opened(URL.createObjectURL(file)));
      else await record(file);
    } catch {
      write("dropped", "unreadable " + Date.now());
    }
  });

  /* gradio heads what it shows over the page by its kind, in English alone. */
  new MutationObserver(() => {
    const said = one("#title [data-error]")?.dataset;
    for (const title of document.querySelectorAll(".toast-title")) {
      const words = said?.[["error", "warning", "info"].find((kind) => title.classList.contains(kind))];
      const node = [...title.childNodes].find((each) => each.nodeType === Node.TEXT_NODE && each.nodeValue.trim());
      if (words && node && node.nodeValue.trim() !== words) node.nodeValue = `${words} `;
    }
  }).observe(document.body, { childList: true, subtree: true });

  /* What the server wants on the canvas it says in #onto. */
  let last = "";
  new MutationObserver(async () => {
    const wanted = one("#onto [data-image]");
    if (!wanted || wanted.dataset.turn === last) return canvas.shown?.width === 300 ? canvas.render() : undefined;
    last = wanted.dataset.turn;
    canvas.load(await opened(wanted.dataset.image));
    if (!wanted.dataset.show) return;
    /* Its room is closed at first, and what happens there would not be seen. */
    if (!canvas.shown?.offsetParent) one("#image-room button")?.click();
    one("#image-room")?.scrollIntoView({ block: "start" });
  }).observe(document.body, { childList: true, subtree: true });
}
