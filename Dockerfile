FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
RUN npm run build
RUN npm ci --ignore-scripts --omit=dev --omit=optional

# The image's root: Node.js, the libraries it is linked with, and the gateway. All of it belongs to
# root and is writable by nobody else.
RUN set -eu; \
    mkdir -p /rootfs/usr/local/bin /rootfs/app /rootfs/var/lib; \
    cp /usr/local/bin/node /rootfs/usr/local/bin/node; \
    ldd /usr/local/bin/node | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /rootfs; \
    cp -R package.json dist node_modules /rootfs/app/; \
    install -m 0755 deploy/container/gateway /rootfs/usr/local/bin/gateway; \
    install -m 0755 deploy/container/healthcheck /rootfs/healthcheck; \
    chown -R 0:0 /rootfs; \
    chmod -R go-w,a+rX /rootfs

FROM scratch
COPY --from=build /rootfs/ /
# There is no shell: Node.js makes the one directory that the gateway may write to, and proves on the
# way that it runs here and finds every package.
RUN ["/usr/local/bin/node", "--input-type=module", "--eval", "import fs from 'node:fs'; const dir = '/var/lib/caracal'; fs.mkdirSync(dir); fs.chownSync(dir, 65532, 65532); fs.chmodSync(dir, 0o750); await import('/app/dist/app.js')"]
ENV NODE_ENV=production
WORKDIR /app
USER 65532:65532
EXPOSE 8081
# For an engine that is told nothing else; an orchestrator has probes of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/healthcheck"]
ENTRYPOINT ["/usr/local/bin/gateway"]
