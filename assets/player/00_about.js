/* The ShardLab player: draws a Trace on canvas, without dependencies.

   The files of this folder are one module: views/player.py joins them in the order of their names,
   so that every host gets one script. A section may be taken alone (the studio, the arena do).

   One payload (parallel_core/views/player.py) and three hosts: Streamlit components v2, anywidget,
   and a static page. All that is heavy is painted once to an off-screen canvas; a frame of
   playing or scrubbing copies that picture and outlines what runs now, found by binary search.

     1  numbers and words        5  layout              9  the popover's content
     2  payload -> columns       6  level of detail    10  markup, style
     3  search and events        7  theme              11  the player
     4  logical steps, path      8  painting           12  hosts

   A "row" is a span's position in the columns. Times are nanoseconds since the trace's start. */

