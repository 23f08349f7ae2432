// The 3D view: truth and predictions beside each other or over each other, turned together, starting at the image's
// own viewpoint. One WebGL context for the page, since browsers allow few.

const canTurn = content.view === "3d" && typeof THREE !== "undefined";
const KEY_STEP = 0.1; // radians
const MOST_ELEVATION = 1.5;
const GROUND_SIDE = 12; // scene units

const view = { dialog: null, renderer: null, canvas: null, legend: null, scene: null, worlds: [], isOverlay: false };
const orbit = { azimuth: 0, elevation: 0, distance: 1, target: [0, 0, 0] };
const shapes = new Map(); // kind -> geometry

function numbersOf(base64, type) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new type(bytes.buffer);
}

// The unit shapes of the renderers: z is up, they reach from -1 to 1.
function geometryOf(kind) {
  if (shapes.has(kind)) return shapes.get(kind);
  let made;
  if (kind === "cube") made = new THREE.BoxGeometry(2, 2, 2);
  else if (kind === "cylinder") made = new THREE.CylinderGeometry(1, 1, 2, 48).rotateX(Math.PI / 2);
  else if (kind === "cone") made = new THREE.ConeGeometry(1, 2, 48).rotateX(Math.PI / 2);
  else if (content.meshes[kind]) {
    made = new THREE.BufferGeometry();
    const points = numbersOf(content.meshes[kind].points, Float32Array);
    made.setAttribute("position", new THREE.BufferAttribute(points, 3));
    made.setIndex(new THREE.BufferAttribute(numbersOf(content.meshes[kind].faces, Uint32Array), 1));
    made.computeVertexNormals();
  } else made = new THREE.SphereGeometry(1, 32, 24);
  shapes.set(kind, made);
  return made;
}

function partMesh([kind, color, metallic, numbers], isWire) {
  const look = isWire
    ? new THREE.MeshBasicMaterial({ color: 0x1a202c, wireframe: true, transparent: true, opacity: 0.12 })
    : new THREE.MeshStandardMaterial({ metalness: 0.4 * metallic, roughness: 0.9 - 0.5 * metallic });
  if (!isWire) look.color.setRGB(...color); // linear light, as three.js computes with
  const mesh = new THREE.Mesh(geometryOf(kind), look);
  mesh.matrixAutoUpdate = false;
  mesh.matrix.set(...numbers, 0, 0, 0, 1);
  return mesh;
}

// A world with its lights and ground. objects: solid ones; wires: drawn as nets over them.
function world(objects, wires, hasGround) {
  const made = new THREE.Scene();
  made.background = new THREE.Color("#edf2f7");
  made.add(new THREE.HemisphereLight(0xffffff, 0x8a8a8a, 0.9));
  for (const [position, strength] of [[[6, -3, 6], 0.7], [[-5, -4, 4], 0.3]]) {
    const lamp = new THREE.DirectionalLight(0xffffff, strength);
    lamp.position.set(...position);
    made.add(lamp);
  }
  if (hasGround) made.add(new THREE.GridHelper(GROUND_SIDE, GROUND_SIDE, 0x718096, 0xcbd5e0).rotateX(Math.PI / 2));
  for (const [things, isWire] of [[objects, false], [wires, true]]) {
    for (const thing of things) for (const part of thing.parts) made.add(partMesh(part, isWire));
  }
  return made;
}

function buildWorlds() {
  const { scene } = view;
  const runs = scene.runs.map((run, number) => [run, number]).filter(([run]) => run && run.parts);
  const beside = view.isOverlay ? [] : [["truth", world(scene.parts, [], scene.has_ground)]];
  const wires = view.isOverlay ? scene.parts : [];
  const said = runs.map(([run, i]) => [content.runs[i].name, world(run.parts, wires, scene.has_ground)]);
  view.worlds = [...beside, ...said];
  view.legend.replaceChildren(...view.worlds.map(([name]) => element("span", {}, name)));
}

function startOrbit(camera) {
  const [x, y, z] = camera.position.map((value, i) => value - camera.target[i]);
  orbit.distance = Math.hypot(x, y, z);
  orbit.azimuth = Math.atan2(y, x);
  orbit.elevation = Math.asin(z / orbit.distance);
  orbit.target = camera.target;
}

function eye() {
  const flat = Math.cos(orbit.elevation) * orbit.distance;
  const [x, y, z] = orbit.target;
  return [
    x + flat * Math.cos(orbit.azimuth),
    y + flat * Math.sin(orbit.azimuth),
    z + orbit.distance * Math.sin(orbit.elevation),
  ];
}

function drawView() {
  const { renderer, canvas, worlds, scene } = view;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height || !worlds.length) return;
  renderer.setPixelRatio(window.devicePixelRatio);
  renderer.setSize(width, height, false);
  renderer.setScissorTest(true);
  const column = Math.floor(width / worlds.length);
  // narrower than the image, a column still shows all of its width
  const half = Math.tan((scene.camera.fov_deg * Math.PI) / 360) * Math.max(1, (scene.camera.aspect * height) / column);
  const camera = new THREE.PerspectiveCamera((Math.atan(half) * 360) / Math.PI, column / height, 0.05, 2000);
  camera.up.set(0, 0, 1);
  camera.position.set(...eye());
  camera.lookAt(...orbit.target);
  worlds.forEach(([, made], i) => {
    renderer.setViewport(i * column, 0, column, height);
    renderer.setScissor(i * column, 0, column - 2, height);
    renderer.render(made, camera);
  });
  canvas.dataset.azimuth = orbit.azimuth.toFixed(4);
  canvas.dataset.drawn = String(renderer.info.render.triangles);
}

function turn(azimuth, elevation) {
  orbit.azimuth += azimuth;
  orbit.elevation = Math.max(-MOST_ELEVATION, Math.min(MOST_ELEVATION, orbit.elevation + elevation));
  drawView();
}

function zoom(factor) {
  orbit.distance = Math.max(0.5, Math.min(500, orbit.distance * factor));
  drawView();
}

function listen(canvas) {
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    turn((last[0] - event.clientX) / 150, (event.clientY - last[1]) / 150);
    last = [event.clientX, event.clientY];
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.1 : 1 / 1.1);
  });
  const keys = {
    ArrowLeft: () => turn(-KEY_STEP, 0),
    ArrowRight: () => turn(KEY_STEP, 0),
    ArrowUp: () => turn(0, KEY_STEP),
    ArrowDown: () => turn(0, -KEY_STEP),
    "+": () => zoom(1 / 1.1),
    "-": () => zoom(1.1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

function makeDialog() {
  view.canvas = element("canvas", { id: "view-canvas", tabindex: "0" });
  view.legend = element("div", { class: "legend" });
  view.title = element("h3");
  const overlay = element("button", { type: "button", id: "view-overlay" }, "one over the other");
  overlay.addEventListener("click", () => {
    view.isOverlay = !view.isOverlay;
    overlay.textContent = view.isOverlay ? "side by side" : "one over the other";
    buildWorlds();
    drawView();
  });
  const reset = () => {
    startOrbit(view.scene.camera);
    drawView();
  };
  const back = element("button", { type: "button", onclick: reset }, "image's viewpoint");
  const close = element("button", { type: "button", onclick: () => view.dialog.close() }, "close");
  const bar = element("div", { class: "bar" }, view.title, overlay, back, close);
  const help = element("p", { class: "note" }, "Drag to turn, wheel to zoom; arrow keys, + and - do it too.");
  view.dialog = element("dialog", { id: "view" }, bar, view.legend, view.canvas, help);
  document.body.append(view.dialog);
  view.renderer = new THREE.WebGLRenderer({ canvas: view.canvas, antialias: true });
  // colours are sRGB; releases of three.js before and after 152 call it otherwise
  if ("outputColorSpace" in view.renderer) view.renderer.outputColorSpace = "srgb";
  else if (THREE.sRGBEncoding !== undefined) view.renderer.outputEncoding = THREE.sRGBEncoding;
  listen(view.canvas);
  window.addEventListener("resize", drawView);
}

function openView(scene) {
  try {
    if (!view.dialog) makeDialog();
  } catch (error) {
    window.alert(`The 3D view needs WebGL: ${error.message}`);
    return;
  }
  view.scene = scene;
  view.title.textContent = scene.image;
  buildWorlds();
  startOrbit(scene.camera);
  if (!view.dialog.open) view.dialog.showModal();
  drawView();
  view.canvas.focus();
}
