"""The draw page as files: a folder for any web server, or one HTML file that needs none.

The page reads `draw.json`, or the same document inside of the one file:

    version     1
    models      a list; the first of each direction is used
        direction         "map2sat" or "sat2map"
        name              for people
        url               of the network, relative to the page
        bytes, sha256     of that file
        size              side in pixels of the images it was trained on
        stride            inputs are extended to a multiple of this many pixels, and windows start at multiples of it
        halo              pixels on each side that an output pixel depends on; null where that is not bounded
        overlap           pixels that windows share, where it is not
        noise_bands       of its noise image; 0: it has none
        metres_per_pixel  at which it was trained; null: not known
        trained_on, licence, note   sentences for people
        store             "fp16" or "int8": how its weights are kept in the file
        loss              what that costs: {"metric": "lpips" or "miou", "value", "pairs"}
    style       look of a map: `name`, `background` ("#rrggbb") and `rules`, the first of which is painted first.
                A rule: `kind`, `geometry` ("any", "line", "area"), `fill`, `width_m`, `min_width_px`,
                `casing` (a colour or null), `casing_m`, `min_casing_px`
    town        what a random town is laid out by; lengths in metres, places as fractions of its side
        widths     {highway, arterial, road, river, rail}
        scale      [lowest, highest]: widths are multiplied by sqrt(side / 1000 m), within these
        river, rail, highways   waypoints [[x, y], ...] of smooth lines (Catmull-Rom); highways is a list of such lines
        wobble     standard deviation by which waypoints of [rivers and highways, rail] are moved
        arterials  metres from one to the next
        parks      centres [[x, y], ...] by quarter, largest first
        park_radius  [metres at most, share of the side at most]
        square_parks share of the blocks that are parks
        blocks     {use: [along, across]} of downtown, houses, industry, field
        lots       {use: {frontage, setback, length: [low, high], depth: [low, high], kept}}, shares of a lot
    runtime     {"name", "version", "licence", "files"}: of what runs the network
"""
